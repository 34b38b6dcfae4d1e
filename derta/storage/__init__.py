"""What stands on disk, read and written: local data files, atomic writes, versions of what made them."""
