"""HEALPix by the book (Gorski et al. 2005, section 4.1), one position at a time: an oracle."""

import math


def pixel_of(ra: float, dec: float, order: int) -> int:
    """The nested pixel of an order, of a position in degrees."""
    side = 2**order
    z, turns = math.sin(math.radians(dec)), (ra % 360) / 90  # turns: quarters, 0 to 4
    if abs(z) <= 2 / 3:  # the equatorial belt
        down = int(side * (0.5 + turns) - side * 0.75 * z)
        up = int(side * (0.5 + turns) + side * 0.75 * z)
        row, column = down // side, up // side
        face = row % 4 + 4 if row == column else row if row < column else column + 8
        x, y = up % side, side - down % side - 1
    else:
        quarter = min(3, int(turns))
        reach = side * math.sqrt(3 * (1 - abs(z)))
        down = min(side - 1, int((turns - quarter) * reach))
        up = min(side - 1, int((1 - turns + quarter) * reach))
        face = quarter if z > 0 else quarter + 8
        x, y = (side - up - 1, side - down - 1) if z > 0 else (down, up)
    bits = sum(
        ((x >> bit & 1) << 2 * bit) | ((y >> bit & 1) << 2 * bit + 1) for bit in range(order)
    )
    return face * side * side + bits
