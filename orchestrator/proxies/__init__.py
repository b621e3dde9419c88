"""Proxies: numbers computed without any target label, larger = better, used to choose. One file each."""
