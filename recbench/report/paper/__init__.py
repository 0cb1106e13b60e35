"""What papers print, to be shown beside our values; see ``latentr3.yaml``."""
