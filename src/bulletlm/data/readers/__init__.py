"""One module for each kind of file that the data stage reads. `bulletlm.data.reading` chooses among them."""
