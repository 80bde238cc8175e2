"""One module for each file type that the data stage reads; `bulletlm.data.reading` chooses among them."""
