import os

from avader.pipelines.quiet import KNOWN, without_known_noise


def test_only_the_known_line_is_kept_back(capfd):
    with without_known_noise():
        os.write(2, b"[E] Actor " + KNOWN + b". See the issue.\nsomething ")
        os.write(2, b"real\nlast, without an end")
    os.write(2, b"\nafter\n")
    assert capfd.readouterr().err == "something real\nlast, without an end\nafter\n"
