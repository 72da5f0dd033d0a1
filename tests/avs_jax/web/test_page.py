"""The page in a real browser: a video goes in, masks come out, a bad file is a sentence, the keyboard is enough."""

import shutil
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the web page is optional: pip install -r requirements-web.txt")

from avs_jax.own_video.film import Film
from avs_jax.web import work
from avs_jax.web.jobs import Limits
from avs_jax.web.samples import make_samples
from data_pipelines.clips import SAMPLE_RATE_HZ
from tests.conftest import PATIENCE_S

webdriver = pytest.importorskip(
  "selenium.webdriver", reason="selenium is not installed (requirements-dev.txt)"
)
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
OPTIONS = (
  *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
  *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
  *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--window-size=1280,1100"),
  "--autoplay-policy=no-user-gesture-required",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  if not CHROMIUM or not DRIVER:
    pytest.skip("chromium and chromedriver are not installed")
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
    options.add_argument(option)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
  yield driver
  driver.quit()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  """Two seconds, loud in the second one."""
  path = tmp_path_factory.mktemp("video") / "street.mp4"
  rng = np.random.default_rng(0)
  with Film(path, (96, 128), 2.0, [(SAMPLE_RATE_HZ, 1)]) as film:
    for k in range(4):
      film.picture(rng.integers(0, 255, (96, 128, 3), np.uint8), k / 2)
    noise = rng.normal(0, 0.15, (2 * SAMPLE_RATE_HZ, 1)).astype(np.float32)
    noise[:SAMPLE_RATE_HZ] = 0
    film.sound(noise)
  return path


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  return make_samples(tmp_path_factory.mktemp("samples") / "made", size=64)


@pytest.fixture
def page(server, listener, samples, browser):
  """(browser at the page, jobs)."""
  limits = Limits(seconds=20.0)
  client, jobs = server(
    work.Work(listener, limits),
    limits,
    [(each.name, each.path, each.title) for each in samples],
    work.about(listener),
  )
  browser.get(client.url)
  wait(browser, "return document.querySelectorAll('#sounds input').length === 6")
  yield browser, jobs
  problems = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
  assert not problems


def wait(browser, script):
  end = time.monotonic() + PATIENCE_S
  while not (found := browser.execute_script(script)):
    assert time.monotonic() < end, browser.execute_script("return document.body.innerText")
    time.sleep(0.1)
  return found


def element(browser, name):
  return browser.find_element(By.ID, name)


SHOWN = "return !document.getElementById('shown').hidden && document.getElementById('film').readyState > 1"
SAID = "return document.getElementById('error').hidden ? '' : document.getElementById('error').textContent"


def test_an_uploaded_video_comes_back_with_masks_timeline_four_sounds_and_files(page, video):
  browser, jobs = page
  element(browser, "video").send_keys(str(video))
  element(browser, "four").click()
  element(browser, "go").click()
  wait(browser, SHOWN)
  assert element(browser, "result-title").text == "street.mp4: its own sound"
  assert browser.execute_script("return document.getElementById('film').videoWidth") == 128
  bars = browser.find_elements(By.CSS_SELECTOR, "#timeline rect")
  assert [bar.get_attribute("class") for bar in bars] == ["bar quiet", "bar"]
  assert "1 of 2 s with a mask" in element(browser, "figures").text
  shown = [link.text.split(" · ")[0] for link in browser.find_elements(By.CSS_SELECTOR, "#files a")]
  assert shown == [*work.FILES.values(), *work.FOUR_FILES.values()]
  element(browser, "view-masks").send_keys(Keys.ARROW_RIGHT)
  wait(browser, "return document.getElementById('film').videoWidth === 256")
  assert "It listens in part" in element(browser, "verdict").text
  text = element(browser, "timeline").find_element(By.TAG_NAME, "svg")
  browser.execute_script("document.getElementById('film').pause()")
  text.send_keys(Keys.HOME)
  text.send_keys(Keys.ARROW_RIGHT)
  assert browser.execute_script("return document.getElementById('film').currentTime") == pytest.approx(
    1, abs=0.1
  )
  assert text.get_attribute("aria-valuetext").startswith("1.0 seconds,")
  browser.refresh()
  wait(browser, SHOWN)  # a reload finds the result again
  (job,) = jobs._jobs.values()
  assert not job.inbox.exists()


def test_a_bad_file_is_a_sentence_and_the_next_one_works(page, video, tmp_path):
  browser, _ = page
  element(browser, "go").click()
  assert wait(browser, SAID) == "Choose a video first."
  bad = tmp_path / "notes.mp4"
  bad.write_text("this is no video")
  element(browser, "video").send_keys(str(bad))
  element(browser, "go").click()
  said = wait(browser, "return document.getElementById('busy').hidden && (() => {" + SAID + "})()")
  assert said.startswith("notes.mp4 cannot be read as a video or sound")
  assert str(tmp_path) not in said
  element(browser, "video").send_keys(str(video))
  element(browser, "go").click()
  wait(browser, SHOWN)
  assert element(browser, "error").get_attribute("hidden")


def test_a_sample_under_a_recorded_voice_by_keyboard_alone(page):
  browser, _ = page
  keys = webdriver.ActionChains(browser)
  active = (
    "return document.activeElement.id || document.activeElement.value || document.activeElement.dataset.name"
  )
  reached = []
  for _ in range(30):
    keys.send_keys(Keys.TAB).perform()
    keys.reset_actions()
    reached.append(browser.execute_script(active))
    if reached[-1] == "multi.mp4":
      browser.switch_to.active_element.send_keys(Keys.SPACE)
    if reached[-1] == "own":
      break
  assert {"theme", "video", "a_barking_dog.mp4", "single.mp4", "multi.mp4", "own"} <= set(reached)
  for _ in range(5):
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
  assert browser.execute_script("return sound()") == "recorded"
  element(browser, "go").send_keys(Keys.ENTER)
  assert wait(browser, SAID) == "Record a sound first."
  element(browser, "record").send_keys(Keys.ENTER)
  wait(browser, r"return /^Stop \([1-9]/.test(document.getElementById('record-text').textContent)")
  element(browser, "record").send_keys(Keys.ENTER)
  wait(browser, "return recorder.sound && recorder.sound.size > 0")
  element(browser, "go").send_keys(Keys.ENTER)
  wait(browser, SHOWN)
  assert element(browser, "result-title").text == "Drawn things in turn: your voice"


def test_the_visitor_may_choose_dark_and_sees_that_the_model_is_a_stand_in(page):
  browser, _ = page
  themes = set()
  for _ in range(3):
    element(browser, "theme").click()
    themes.add(
      (
        element(browser, "theme").text,
        browser.execute_script("return document.documentElement.dataset.theme"),
      )
    )
  assert themes >= {("Dark", "dark"), ("Light", "light")}
  assert "trained on a stand-in" in element(browser, "stand-in").text
