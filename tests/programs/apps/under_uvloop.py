"""Run a program that calls asyncio.run() on uvloop's loop. Usage: under_uvloop.py PROGRAM WORDS"""

import asyncio
import runpy
import sys

import uvloop


def run(main):
    """In place of asyncio.run(): uvloop.install() would do the same, and warns on Python 3.12."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


asyncio.run = run
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
