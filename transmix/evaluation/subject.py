"""What can be evaluated: a run, a weights file, a timm model; each becomes models, classes, preprocessing and data."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from transmix.data.augment import EvaluationCrop
from transmix.data.dataset import ImageData
from transmix.data.loader import choose_threads, choose_workers, evaluation_batches
from transmix.data.source import check_same_classes, open_data, relabel_to
from transmix.evaluation.evaluate import evaluate
from transmix.recipes import RecipeError, load_recipe
from transmix.recipes.settings import Model
from transmix.training import distributed
from transmix.training.checkpoint import newest_checkpoint, read_tensors
from transmix.training.model import build_model, normaliser
from transmix.training.run_folder import RunError, read_classes
from transmix.training.step import AMP
