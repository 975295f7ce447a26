"""Auditing: a stranger's file, opened, checked and judged."""
