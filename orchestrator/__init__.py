"""What happens around a trial: configuration, sweep, tracking, selection, oracle, report, command line."""
