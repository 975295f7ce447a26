"""The carry-over board: a static site of what is carried, attack by distiller, from our results and others' entries."""
