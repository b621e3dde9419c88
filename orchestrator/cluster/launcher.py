"""Ray's own verdict on a launcher file.

``prepare_config`` and ``validate_config`` are private to Ray and may change with any version. They are used
here alone, and known to work with the version in constraints.txt.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.cluster.findings import Finding, hint, join, section

NO_DEFAULTS = "is not a provider of Ray's launcher"


def launcher_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """What Ray refuses at ``ray up``, and the key of it.

    Ray stops at its first objection; its schema is applied here once more, for all of them.
    """
    found = list(_schema_findings(config))
    yield from found
    # What the schema names already is not repeated in Ray's words.
    if found:
        return
    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            validate_config(prepare_config(copy.deepcopy(config)))
    except NotImplementedError:
        yield Finding("provider.type", f"{config['provider'].get('type')!r} {NO_DEFAULTS}")
    except jsonschema.ValidationError as error:
        yield Finding(join(*error.absolute_path), error.message)
    except Exception as error:  # Ray raises what it likes
        said = output.getvalue().strip().splitlines()[-1:] or [str(error)]
        yield Finding("", f"Ray refuses the file: {said[0]}")


def _schema_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Apply Ray's schema to the file as it is written, for all mistakes at once."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    # `ray up` moves it elsewhere before it validates.
    known = {name: value for name, value in config.items() if name != "min_workers"}
    for error in sorted(jsonschema.Draft7Validator(schema).iter_errors(known), key=lambda e: str(e.path)):
        key = join(*error.absolute_path)
        if error.validator == "additionalProperties":
            names = section(error.schema.get("properties"))
            for name in sorted(set(error.instance) - set(names)):
                yield Finding(join(key, name), f"Ray has no such key.{hint(name, names)}")
        else:
            yield Finding(key, error.message)
