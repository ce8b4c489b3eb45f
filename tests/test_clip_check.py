"""What the start-up check refuses is what the networks themselves cannot compute."""

from argparse import Namespace

import pytest
import torch

from eval import network
from model.momentum import make_encoder
from utils.clip_check import check_clips
from utils.errors import OptionError


@pytest.mark.parametrize(("batch", "frames", "side", "training"), [
    (2, 8, 16, True), (2, 2, 32, True), (1, 8, 32, True), (2, 8, 32, True), (1, 16, 32, True), (1, 8, 32, False)])
def test_an_encoder_of_s3d(batch, frames, side, training):
    args = Namespace(net="s3d", batch_size=batch, seq_len=frames, img_dim=side)
    encoder = make_encoder("s3d", 4).train(training)
    try:
        with torch.no_grad():
            encoder(torch.rand(batch, 3, frames, side, side))
        possible = True
    except (RuntimeError, ValueError):
        possible = False
    if possible:
        check_clips(encoder.to("meta"), args)
        return
    with pytest.raises(OptionError, match="--net s3d") as caught:
        check_clips(encoder.to("meta"), args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("what", "batch", "test", "possible"), [
    ("last", 1, "", False), ("last", 2, "", True), ("last", 1, "x", True), ("ft", 1, "", False), ("ft", 1, "x", True)])
def test_a_classifier(what, batch, test, possible):
    args = Namespace(net="s3d", train_what=what, final_bn=False, test=test, batch_size=batch, seq_len=8, img_dim=32)
    if possible:
        check_clips(network.shadow(args), args)
        return
    with pytest.raises(OptionError, match="Expected more than 1 value"):
        check_clips(network.shadow(args), args)


def test_a_check_draws_no_random_numbers():
    before = torch.get_rng_state()
    network.shadow(Namespace(net="s3d", train_what="last", final_bn=False, test=""))
    assert torch.equal(torch.get_rng_state(), before)
