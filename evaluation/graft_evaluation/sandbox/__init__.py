"""
Processes in which model-written text does its work, with bounded time and memory.

`zygote` is the program that stays and forks one child an answer; `pool` talks to it; `grammar`, `smt` and `command` are what the
child does.
"""
