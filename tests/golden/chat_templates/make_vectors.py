#!/usr/bin/env python3
"""Writes constructs.json and conversations.json: templates and what transformers renders of them.

    python tests/golden/chat_templates/make_vectors.py

Needs transformers and Jinja2 (made with 5.24.0 and 3.1.6). The environment is the one that
`apply_chat_template` renders in, not a copy of it. An error is null. Left out are texts in which
Python writes addresses, and the few things that krait refuses though Python knows them.
"""

import itertools
import json
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

from constructs import CONVERSATIONS, EXPRESSIONS, MARKS, PRODUCTS, REFUSED, SETTINGS, TEMPLATES
from constructs import VARIABLES

HERE = Path(__file__).resolve().parent


def render(template, variables):
    try:
        # A template must not see what another did to its variables.
        return _compile_jinja_template(template).render(**json.loads(json.dumps(variables)))
    except Exception:  # whatever a template does wrong
        return None


def constructs():
    products = ["".join(parts) for product in PRODUCTS for parts in itertools.product(*product)]
    expressions = EXPRESSIONS + products[::5]
    for template in TEMPLATES + ["{{ " + expression + " }}" for expression in expressions]:
        text = render(template, {**MARKS, **VARIABLES})
        if template in REFUSED or (text is not None and " at 0x" in text.lower()):
            continue
        yield [template, text]


def conversations():
    for file in sorted(HERE.glob("*.jinja")):
        template = file.read_text()
        for number, (name, messages) in enumerate(CONVERSATIONS.items()):
            for setting in (number % len(SETTINGS), (number + 3) % len(SETTINGS)):
                variables = {"messages": messages, "tools": None, "documents": None,
                             "add_generation_prompt": True, **SETTINGS[setting]}
                yield {"file": file.name, "conversation": name, "setting": setting,
                       "text": render(template, {**MARKS, **variables})}


def write(name, head, rows):
    lines = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n"
    (HERE / name).write_text(text)


write("constructs.json", {"marks": MARKS, "variables": VARIABLES}, constructs())
write("conversations.json", {"marks": MARKS, "conversations": CONVERSATIONS, "settings": SETTINGS},
      conversations())
