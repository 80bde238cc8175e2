"""Text and weights for the tests of the runtime."""

import numpy as np

from bulletlm.shape import ModelShape

MARATHI = """\
एका गावात एक शेतकरी राहत होता. त्याच्याकडे दोन बैल होते आणि एक छोटीशी विहीर होती.
पावसाळ्यात नदीला पूर आला की मुले शाळेत जाऊ शकत नसत, म्हणून शिक्षक त्यांच्या घरी येत.
आजी म्हणाली, "ज्ञान हे क्षणात मिळत नाही; त्यासाठी श्रद्धा, संयम आणि प्रयत्न हवेत."
त्र्यंबकने विचारले, "खऱ्या मैत्रीचा अर्थ काय?" दुसऱ्या दिवशी त्याला उत्तर मिळाले.
कर्तव्य म्हणजे काय, हे पुस्तकातून कळत नाही; ते कष्टातून उमगते. सूर्य उगवला आणि दव वितळले.
ऋतू बदलतात, झाडे फुलतात, पक्षी स्थलांतर करतात; पण समुद्राची गाज तीच राहते.
लक्ष्मीने दुकानातून साखर, गूळ, तांदूळ आणि कोथिंबीर आणली; एकूण १२५ रुपये झाले.
"""

ENGLISH = """\
The old teacher walked to the village every morning, and the children ran to meet her at the bridge.
What is a friend? A friend is somebody who tells you the truth kindly and stays when the others have left.
It rained for three days. On the fourth day the river was quiet again, and they counted 14 boats.
"""


def random_tensors(shape: ModelShape, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights large enough that every part of the network matters."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(s, dtype=np.float32) / np.float32(s[-1] ** 0.5 if len(s) == 2 else 4) + np.float32(len(s) == 1)
        for name, s in shape.tensors().items()
    }
