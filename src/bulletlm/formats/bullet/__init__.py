"""The `.bullet` file format: layout, writer, reader."""
