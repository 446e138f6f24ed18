"""The commands of `lml`, one file each. They import what they need when they run."""
