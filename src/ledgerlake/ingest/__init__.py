"""Import of files of commands, batch by batch, through the aggregates and the append path."""
