"""What a shard writes: a table of rows, arrays of maps, a tar of files."""
