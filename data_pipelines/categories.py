"""What sounds in AVSBench, and the broad groups from which off-screen sounds are told apart.

S4 and MS3: the groups of the Robust paper's released code, which also lists MS3's "background" as a device.
AVSS: the paper groups none of the classes that came new; those groups are ours, by the same four words.
"""

S4 = {
  "baby_laughter": "human",
  "female_singing": "human",
  "male_speech": "human",
  "dog_barking": "animal",
  "cat_meowing": "animal",
  "lions_roaring": "animal",
  "horse_clip-clop": "animal",
  "coyote_howling": "animal",
  "mynah_bird_singing": "animal",
  "playing_acoustic_guitar": "music",
  "playing_tabla": "music",
  "playing_violin": "music",
  "playing_piano": "music",
  "playing_ukulele": "music",
  "playing_glockenspiel": "music",
  "helicopter": "device",
  "race_car": "device",
  "driving_buses": "device",
  "ambulance_siren": "device",
  "typing_on_computer_keyboard": "device",
  "chainsawing_trees": "device",
  "cap_gun_shooting": "device",
  "lawn_mowing": "device",
}

MS3 = {
  **dict.fromkeys(("guitar", "tabla", "violin", "ukulele", "piano", "marimba"), "music"),
  **dict.fromkeys(("man", "woman", "baby"), "human"),
  **dict.fromkeys(("dog", "cat", "lion", "bird", "wolf"), "animal"),
  **dict.fromkeys(("mower", "background", "bus", "car", "gun", "saw", "emergency-car", "keyboard"), "device"),
}

AVSS = {
  **MS3,
  **dict.fromkeys(
    ("accordion", "bassoon", "bell", "cello", "clarinet", "drum", "erhu", "flute", "guzheng", "handpan")
    + ("harmonica", "harp", "pipa", "saxophone", "sitar", "sorna", "trombone", "trumpet", "tuba"),
    "music",
  ),
  **dict.fromkeys(("boy", "girl"), "human"),
  **dict.fromkeys(
    ("donkey", "duck", "elephant", "goose", "hen", "horse", "leopard", "parrot", "pig", "sheep")
    + ("squirrel", "tiger"),
    "animal",
  ),
  **dict.fromkeys(
    ("airplane", "axe", "boat", "clipper", "clock", "frying-food", "hair-dryer", "helicopter")
    + ("missile-rocket", "motorcycle", "tank", "tractor", "train", "truck", "utv", "vacuum-cleaner"),
    "device",
  ),
}

OTHER = "other"  # the group of a category that no table knows
