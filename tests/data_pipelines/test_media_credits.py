"""Owner and licence are found where packages state them."""

import pytest

from data_pipelines.media_credits import look_up

COPYRIGHT = """Format: https://example.org/1.0/

Files: *
Copyright: 2001 Ann
 2002 Bob
 2003 Cid
 2004 Dan
License: GPL-3+

Files: src/sounds/*_LA.ogg
       src/sounds/bark.ogg
Copyright: Eve
License: free-art
Comment: from a web page

Files: src/pictures/tower.jpg
Copyright: Flo
License: CC-BY-3.0

Files: stereo/call.oga
Copyright: Gil
License: GPL-2+

License: GPL-3+
 You may ...
"""
README = """Copyright: Hal
License: CC0-1.0
Source: https://example.org/a
Files:
india/fort.webp
india/gate.webp

Copyright: Ida
License: CC-BY-SA 4.0
Files:
egypt/pyramid.webp
"""


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "usr/share/doc/media").mkdir(parents=True)
  (tmp_path / "usr/share/doc/media/copyright").write_text(COPYRIGHT)
  return tmp_path


@pytest.mark.parametrize(
  ("path", "expected"),
  [
    ("usr/share/other.png", ("2001 Ann; 2002 Bob and 2 others", "GPL-3+")),
    ("gcompris/src/sounds/rain_LA.ogg", ("Eve", "free-art")),
    ("gcompris/src/sounds/bark.ogg", ("Eve", "free-art")),
    ("gcompris/src/sounds/meow.ogg", ("2001 Ann; 2002 Bob and 2 others", "GPL-3+")),
    ("gcompris/src/pictures/tower.webp", ("Flo", "CC-BY-3.0")),
    ("usr/share/sounds/desktop/stereo/call.oga", ("Gil", "GPL-2+")),
  ],
)
def test_the_last_matching_paragraph_of_the_copyright_file_counts(folder, path, expected):
  assert look_up("media", folder, path, {}) == expected


@pytest.mark.parametrize(
  ("path", "expected"),
  [("res/india/gate.webp", ("Hal", "CC0-1.0")), ("res/egypt/pyramid.webp", ("Ida", "CC-BY-SA 4.0"))],
)
def test_a_readme_in_the_archive_counts_more(folder, path, expected):
  assert look_up("media", folder, path, {"res/README": README.encode()}) == expected


def test_the_archives_own_words_count_most(folder):
  archive = {"5.txt": b'"Cow". By "Jo". License: Creative Commons Zero 1.0.', "README": README.encode()}
  assert look_up("media", folder, "5.wav", archive) == ('"Cow". By "Jo".', "Creative Commons Zero 1.0")


def test_a_file_the_readme_does_not_name_goes_by_the_copyright_file(folder):
  found = look_up("media", folder, "res/peru/city.webp", {"res/README": README.encode()})
  assert found == ("2001 Ann; 2002 Bob and 2 others", "GPL-3+")


def test_a_package_that_is_silent_points_to_its_copyright_file(tmp_path):
  assert look_up("media", tmp_path, "a.png", {})[1] == "see copyright file of media"
