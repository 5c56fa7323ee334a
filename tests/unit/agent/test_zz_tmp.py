import cProfile
import pstats
import time

from tests.unit.agent.conftest import *


async def test_x(guest):
    folder = guest.home / "many"
    folder.mkdir()
    t=time.perf_counter()
    for number in range(5000):
        (folder / f"{number:05}").touch()
    print("touch",time.perf_counter()-t)
    for _ in range(3):
        t=time.perf_counter(); pr=cProfile.Profile(); pr.enable()
        e=await guest.client.list_dir("many",user="user")
        pr.disable(); print("list",time.perf_counter()-t)
    pstats.Stats(pr).sort_stats("tottime").print_stats(6)
