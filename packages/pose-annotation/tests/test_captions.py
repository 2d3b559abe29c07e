"""Captions never speak of the camera: forty sentences that do, forty that do not, and who writes them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import numpy as np
import pytest
from pose_annotation.backends.caption_server import CaptionServer
from pose_annotation.captions import NoCaptioner, check_caption, write_caption

SPEAKS = """
The camera pans slowly across the square.
The camera moves forward through a hallway.
A camera follows a red car.
The shot zooms in on a window.
The view turns left towards the harbour.
We see a long street with shops.
We move past a row of trees.
As we walk, the river comes closer.
A drone shot glides over the valley.
The drone rises above the roofs.
A tracking shot along the fence.
A dolly shot through the arcade.
The camera dollies in on the statue.
The lens tilts up to the ceiling.
The scene is filmed in a first-person walk.
A first person view of a forest path.
An aerial shot of a coastline.
A handheld shot in a market.
The perspective shifts to the other side of the road.
The viewpoint descends towards the lake.
Zooming out, the whole island appears.
Panning right, a church comes into view.
The camera orbits around the fountain.
The shot tilts down to the pavement.
Moving forward, the corridor opens into a hall.
The view glides through the trees.
The camera trucks left past the shelves.
The footage moves along the beach.
Turning left, a bridge is visible.
A fly-through of a modern kitchen.
The viewer travels down the stairs.
The video pushes towards the door.
The frame follows a cyclist.
A point-of-view shot of skiing.
A crane shot over the crowd.
A POV shot in a car.
The drone flies over a field.
A walking tour of the old town.
The camera strafes right along the wall.
The perspective rotates around the table.
""".strip().splitlines()

SILENT = """
A narrow street runs between brick houses.
Cast iron pans hang above the stove.
A pan of soup stands on the table.
A truck is parked beside the kerb.
Two trucks wait at the crossing.
The planets orbit in a wall painting.
Dolly, a stuffed sheep, sits on the shelf.
Cars drive along the wet road.
A dog runs across the lawn.
Leaves drift down from the maple.
People walk along the promenade.
A flag moves in the wind.
Birds fly over the lake.
The river turns left behind the mill.
A road bends to the right near the church.
Sunlight falls through tall windows.
The floor is made of dark oak.
A tilted sign hangs over the door.
Steam rises from a pot.
Clouds pass behind the tower.
A railway track follows the river.
The path goes around the pond.
Frames with old photographs cover the wall.
A lens shaped lamp stands in the corner.
The view from the terrace shows the sea.
A shot glass stands on the bar.
The crane lifts a container.
An aerial stands on the roof.
A cyclist follows the tram line.
Waves roll onto the beach.
A train moves through the valley far away.
Children go down the slide.
A bus turns right at the corner.
The elevator descends behind a glass wall.
Snow covers the fields and the roofs.
Neon signs are reflected in puddles.
The market is crowded and noisy.
A waterfall pours into a green pool.
Lanterns swing above the alley.
Dust floats in the light of the doorway.
""".strip().splitlines()


@pytest.mark.parametrize("sentence", SPEAKS)
def test_sentences_about_the_camera_are_found(sentence):
    found = check_caption(sentence)
    assert found.found and found.text == "" and not found.accepted and found.removed == 1.0


@pytest.mark.parametrize("sentence", SILENT)
def test_sentences_about_the_place_pass(sentence):
    found = check_caption(sentence)
    assert found.found == () and found.text == sentence and found.accepted


def test_there_are_forty_of_each():
    assert len(set(SPEAKS)) == len(set(SILENT)) == 40


def test_one_sentence_in_many_is_taken_out_and_most_of_the_text_is_refused():
    mixed = check_caption(" ".join([*SILENT[:3], SPEAKS[0]]))
    assert mixed.accepted and mixed.text == " ".join(SILENT[:3]) and 0.2 < mixed.removed < 0.4
    assert not check_caption(f"{SILENT[0]} {SPEAKS[0]} {SPEAKS[1]}").accepted
    assert not check_caption("").accepted


class Says:
    name, version, weights_id = "says", "1", "none"

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def caption(self, frames, prompt):
        self.prompts.append(prompt)
        return self.answers.pop(0)


def test_a_captioner_is_asked_once_more_and_then_refused():
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    again = Says(SPEAKS[0], SILENT[0])
    found = write_caption(again, frames)
    assert found["text"] == SILENT[0] and found["accepted"] and len(again.prompts) == 2
    refused = write_caption(Says(SPEAKS[0], SPEAKS[1]), frames)
    assert refused["text"] == "" and not refused["accepted"] and refused["found"]
    assert write_caption(NoCaptioner(), frames) == {
        "text": "", "source": "none", "accepted": True, "removed": 0.0, "found": []
    }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list] = []
    reply = b""
    code = 200

    def do_POST(self):
        Handler.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(Handler.code)
        self.end_headers()
        self.wfile.write(Handler.reply)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    thread.join()
    http.server_close()


def test_any_openai_compatible_server_can_caption(server):
    frames = np.zeros((20, 64, 96, 3), np.uint8)
    Handler.reply, Handler.code = json.dumps({"choices": [{"message": {"content": SILENT[0]}}]}).encode(), 200
    captioner = CaptionServer(server, "tiny")
    assert write_caption(captioner, frames) == {
        "text": SILENT[0], "source": "server:tiny", "accepted": True, "removed": 0.0, "found": []
    }  # fmt: skip
    asked = Handler.asked[-1]
    assert asked["model"] == "tiny" and asked["temperature"] == 0
    kinds = [part["type"] for part in asked["messages"][0]["content"]]
    assert kinds == ["text"] + ["image_url"] * 8
    for reply, code, message in (
        (b"{}", 200, "gave no caption"),
        (b"no", 200, "gave no caption"),
        (b"", 500, "answered 500"),
    ):
        Handler.reply, Handler.code = reply, code
        with pytest.raises(ValueError, match=message):
            captioner.caption(frames, "?")
    with pytest.raises(ValueError, match="gave no caption"):
        CaptionServer("http://127.0.0.1:9/v1", "tiny", timeout_s=2).caption(frames, "?")
    with pytest.raises(ValueError, match="caption server is 'ftp://x'"):
        CaptionServer("ftp://x", "m")
