"""The strokes of the capital letters and the digits, for the embedded world's writing.

Every glyph is a list of polylines on a grid 4 wide and 6 high. The origin is at the top left.
"""

_TABLE = """
A 06 20 46 | 14 34
B 06 00 30 41 42 33 03 | 33 44 45 36 06
C 41 30 10 01 05 16 36 45
D 00 06 26 44 42 20 00
E 40 00 06 46 | 03 33
F 40 00 06 | 03 33
G 41 30 10 01 05 16 36 45 43 23
H 00 06 | 40 46 | 03 43
I 10 30 | 20 26 | 16 36
J 20 40 | 30 35 26 16 05
K 00 06 | 40 03 46
L 00 06 46
M 06 00 23 40 46
N 06 00 46 40
O 10 30 41 45 36 16 05 01 10
P 06 00 30 41 42 33 03
Q 10 30 41 45 36 16 05 01 10 | 24 46
R 06 00 30 41 42 33 03 | 23 46
S 41 30 10 01 02 13 33 44 45 36 16 05
T 00 40 | 20 26
U 00 05 16 36 45 40
V 00 26 40
W 00 16 23 36 40
X 00 46 | 40 06
Y 00 23 40 | 23 26
Z 00 40 06 46
0 10 30 41 45 36 16 05 01 10 | 32 14
1 11 20 26 | 16 36
2 01 10 30 41 42 06 46
3 00 40 23 33 44 45 36 16 05
4 36 30 04 44
5 40 00 03 33 44 45 36 06
6 40 20 02 05 16 36 45 44 33 03
7 00 40 16
8 10 30 41 42 33 13 02 01 10 | 13 04 05 16 36 45 44 33
9 43 13 02 01 10 30 41 44 26 06
"""


def _strokes(line: str) -> list[list[tuple[int, int]]]:
    polylines = line.split(maxsplit=1)[1].split("|")
    return [
        [(int(point[0]), int(point[1])) for point in polyline.split()] for polyline in polylines
    ]


GLYPHS: dict[str, list[list[tuple[int, int]]]] = {
    line.split(maxsplit=1)[0]: _strokes(line) for line in _TABLE.strip().splitlines()
}
