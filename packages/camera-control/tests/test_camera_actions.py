"""The action language: grammar, errors, printing."""

import numpy as np
import pytest
from camera_control import DIALECTS, action_string_to_c2w, format_actions, parse_actions
from camera_control.dialects import AXES, CONTROLS
from hypothesis import given, settings
from hypothesis import strategies as st

KEYS = st.text(alphabet="wasdijkl", max_size=4)


def test_commands_name_axes_and_units():
    actions = parse_actions("wl-2,sak-1", translation_speed=0.5, rotation_speed_deg=3.0)
    assert AXES == ("forward", "right", "yaw", "pitch")
    assert actions.held.shape == (3, len(CONTROLS))
    np.testing.assert_allclose(actions.commands, [[0.5, 0, 3, 0], [0.5, 0, 3, 0], [-0.5, -0.5, 0, -3]])


@pytest.mark.parametrize(
    "text", ["w-8,jw-4", " W - 8 , Jw-4 ", "w-8\uff0cwj-4", "w-8,\n\tjjw-4", "ww-8,jw-4"], ids=repr
)
def test_spelling_variants_mean_the_same(text):
    np.testing.assert_array_equal(parse_actions(text).held, parse_actions("w-8,jw-4").held)


@pytest.mark.parametrize("text", ["none-3", "NONE-3", "-3"])
def test_none_and_empty_keys_hold_still(text):
    assert not parse_actions(text).held.any() and len(parse_actions(text)) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "action string is empty"),
        (" \n", "action string is empty"),
        ("w", "Invalid action segment 'w': expected '<keys>-<duration>'"),
        ("w-8,", "Invalid action segment ''"),
        (",w-8", "Invalid action segment ''"),
        ("w-0", "Action segment 'w-0' has a non-positive duration '0'"),
        ("w-x", "non-positive duration 'x'"),
        ("w-1.5", "non-positive duration '1.5'"),
        ("w-", "non-positive duration ''"),
        ("w-\u0663", "non-positive duration"),
        ("q-3", "Action segment 'q-3' contains unknown keys ['q']; allowed: adijklsw"),
        ("w--3", "contains unknown keys ['-']"),
        ("w-9999999", "allowed: at most"),
        ("w-" + "9" * 50, "non-positive duration"),
    ],
)
def test_errors_quote_the_segment(text, says):
    with pytest.raises(ValueError) as caught:
        parse_actions(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dialect": "sana-v3"}, "unknown dialect 'sana-v3'; allowed: sana-v1, sana-v2"),
        ({"translation_speed": -1.0}, "translation_speed is -1.0"),
        ({"translation_speed": float("nan")}, "translation_speed is nan"),
        ({"rotation_speed_deg": float("inf")}, "rotation_speed_deg is inf"),
        ({"rotation_speed_deg": 90.0}, "allowed: below 90"),
    ],
)
def test_bad_settings_are_named(options, says):
    with pytest.raises(ValueError, match="allowed") as caught:
        action_string_to_c2w("w-1", **options)
    assert says in str(caught.value)


def test_worldplay_words_and_units():
    actions = parse_actions("w-3, right-1", "worldplay")
    assert len(actions) == 16
    assert actions.held[:12, CONTROLS.index("forward")].all()
    assert actions.held[12:, CONTROLS.index("yaw_right")].all()
    assert format_actions(actions, "worldplay") == "w-3,right-1"
    with pytest.raises(ValueError, match=r"unknown keys \['wd'\]; allowed: w, s, d, a, right, left, up, down, or none"):
        parse_actions("wd-3", "worldplay")
    with pytest.raises(ValueError, match="multiple of that"):
        format_actions(parse_actions("w-7"), "worldplay")
    with pytest.raises(ValueError, match="one control at a time"):
        format_actions(parse_actions("w-4,wl-4"), "worldplay")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(KEYS, st.integers(1, 30)), min_size=1, max_size=6),
    st.sampled_from([name for name, dialect in DIALECTS.items() if not dialect.words]),
)
def test_print_and_parse_are_inverse(segments, name):
    actions = parse_actions(",".join(f"{keys}-{count}" for keys, count in segments), name)
    again = parse_actions(format_actions(actions, name), name)
    np.testing.assert_array_equal(again.held, actions.held)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=24), st.text(alphabet="wasdijklnone-,0123456789 q.\uff0c", max_size=24)),
    st.sampled_from(list(DIALECTS)),
)
def test_any_text_gives_poses_or_a_one_line_error(text, name):
    try:
        actions = parse_actions(text, name)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    if len(actions) > 5000:
        return
    poses = actions.to_c2w()
    assert poses.shape == (len(actions) + 1, 4, 4) and poses.dtype == np.float32
    rotation = poses[:, :3, :3].astype(np.float64)
    assert np.isfinite(poses).all()
    assert np.abs(rotation.swapaxes(1, 2) @ rotation - np.eye(3)).max() < 1e-6
    np.testing.assert_array_equal(poses[0], np.eye(4))
