from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

from pvt_mtl_perception.ros.order import PublicationOrder


def test_each_waits_for_those_before_it_whichever_is_ready_first() -> None:
    order = PublicationOrder()
    published: list[int] = []

    def publish(number: int) -> None:
        order.wait(number)
        published.append(number)
        order.leave(number)

    numbers = [order.draw() for _ in range(5)]
    assert numbers == [0, 1, 2, 3, 4]
    with ThreadPoolExecutor(5) as pool:
        later = [pool.submit(publish, number) for number in (4, 2, 1)]
        order.leave(3)  # failed; it waits for nobody
        assert wait(later, timeout=0.05).not_done == set(later)
        publish(0)
        wait(later, timeout=60)
    assert published == [0, 1, 2, 4]
