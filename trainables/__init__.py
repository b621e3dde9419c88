"""What happens inside a trial: data, encoders, clusterers, backbones, alignments, methods and scores."""
