"""The manifests of `examples/kubernetes`, as far as they can be checked without a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile import USER, instructions
from http_server import serving
from typer.main import get_command

from clsspec_cli.app import app
from clsspec_serve.http.settings import Settings
from clsspec_serve.predictor import Model

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "kubernetes"
TEXT = {str: str}
PROBE = {
    "httpGet": {"path": str, "port": str},
    **dict.fromkeys(("periodSeconds", "timeoutSeconds", "failureThreshold"), int),
}
CONTAINER = {
    "name": str,
    "image": str,
    "ports": [{"name": str, "containerPort": int}],
    "env": [
        {"name": str, "value": str, "valueFrom": {"secretKeyRef": {"name": str, "key": str}}},
    ],
    **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), PROBE),
    "resources": {"requests": TEXT, "limits": TEXT},
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"drop": [str]},
    },
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
POD = {
    "automountServiceAccountToken": bool,
    "terminationGracePeriodSeconds": int,
    "securityContext": {
        "runAsNonRoot": bool,
        **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), int),
        "seccompProfile": {"type": str},
    },
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": str,
            "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
            "emptyDir": {"sizeLimit": str},
        }
    ],
}
DEPLOYMENT = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "labels": TEXT},
    "spec": {
        "replicas": int,
        "selector": {"matchLabels": TEXT},
        "strategy": {"type": str, "rollingUpdate": {"maxSurge": int, "maxUnavailable": int}},
        "template": {"metadata": {"labels": TEXT}, "spec": POD},
    },
}
SERVICE = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "labels": TEXT},
    "spec": {"selector": TEXT, "ports": [{"name": str, "port": int, "targetPort": str}]},
}
"""The fields that the manifests have, by Kubernetes' names and types."""

MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
VARIANTS = [(), ("hub.yaml",), ("gpu.yaml",), ("hub.yaml", "gpu.yaml")]


def problems(value: Any, schema: Any, place: str = "") -> list[str]:
    """What in a manifest is of another name or type."""
    if isinstance(schema, type):
        return [] if type(value) is schema else [f"{place}: {value!r}"]
    if type(value) is not type(schema):
        return [f"{place}: {value!r}"]
    if isinstance(schema, list):
        return [found for each in value for found in problems(each, schema[0], f"{place}[]")]
    kinds = {key: schema.get(key, schema.get(type(key))) for key in value}
    unknown = [f"{place}.{key}" for key, kind in kinds.items() if kind is None]
    known = {key: kind for key, kind in kinds.items() if kind is not None}
    return unknown + [
        found
        for key, kind in known.items()
        for found in problems(value[key], kind, f"{place}.{key}")
    ]


def merged(base: Any, patch: Any, field: str = "") -> Any:
    """A strategic merge as `kubectl patch` does it."""
    if isinstance(patch, dict) and isinstance(base, dict):
        return {
            **base,
            **{key: merged(base.get(key), value, key) for key, value in patch.items()},
        }
    if isinstance(patch, list) and isinstance(base, list):
        key = MERGE_KEYS[field]
        found = {each[key]: each for each in base}
        for each in patch:
            if each.get("$patch") == "delete":
                del found[each[key]]
            else:
                found[each[key]] = merged(found.get(each[key], {}), each)
        return [*found.values()]
    return patch


def documents() -> tuple[Any, Any]:
    deployment, service = yaml.safe_load_all((EXAMPLES / "deployment.yaml").read_text())
    return deployment, service


@pytest.fixture(params=VARIANTS, ids=lambda names: "+".join(names) or "volume")
def deployment(request: pytest.FixtureRequest) -> Any:
    found, _ = documents()
    for name in request.param:
        found = merged(found, yaml.safe_load((EXAMPLES / name).read_text()))
    return found


def container(deployment: Any) -> Any:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return found


def values(deployment: Any) -> dict[str, str]:
    """The container's variables, with a key in place of the secret."""
    return {each["name"]: each.get("value", "secret") for each in container(deployment)["env"]}


def options(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `clsspec serve` reads from them."""
    for name, value in values(deployment).items():
        monkeypatch.setenv(name, value)
    command: Any = get_command(app)
    found: dict[str, Any] = command.commands["serve"].make_context("serve", []).params
    return found


def mebibytes(text: str) -> int:
    assert text.endswith("Gi")
    return int(text.removesuffix("Gi")) << 10


def test_their_fields_are_those_of_kubernetes(deployment: Any) -> None:
    assert problems(deployment, DEPLOYMENT) == []
    _, service = documents()
    assert problems(service, SERVICE) == []
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    for each in container(deployment)["env"]:
        assert ("value" in each) != ("valueFrom" in each)


def test_names_that_belong_together_are_the_same(deployment: Any) -> None:
    spec, (_, service) = deployment["spec"], documents()
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    (port,) = container(deployment)["ports"]
    assert [each["targetPort"] for each in service["spec"]["ports"]] == [port["name"]]
    volumes = {each["name"] for each in spec["template"]["spec"]["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in container(deployment)["volumeMounts"]}
    assert volumes == mounts.keys()
    found = values(deployment)
    place = found.get("HF_HOME", found["CLSSPEC_MODEL"])
    assert any(place == path or place.startswith(f"{path}/") for path in mounts.values())


def test_the_image_is_the_dockerfiles(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = dict(instructions((ROOT / "Dockerfile").read_text()))
    pod = deployment["spec"]["template"]["spec"]
    user = pod["securityContext"]
    assert user["runAsNonRoot"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == lines["USER"] == f"{USER}:{USER}"
    (port,) = container(deployment)["ports"]
    assert str(port["containerPort"]) == lines["EXPOSE"]
    assert options(deployment, monkeypatch)["port"] == port["containerPort"]
    version = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    tag = container(deployment)["image"].partition(":")[2]
    assert tag.removesuffix("-gpu") == version[0]


def test_every_variable_is_an_option_of_the_server(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command: Any = get_command(app)
    known = {each.envvar for each in command.commands["serve"].params}
    assert values(deployment).keys() - known <= {"HF_HOME"}
    found = options(deployment, monkeypatch)
    assert found["api_key"] in (("secret",), ["secret"])
    assert found["model"] in ("/models/my-bundle", "hf:owner/name@revision")
    gpu = "nvidia.com/gpu" in container(deployment)["resources"]["limits"]
    assert found["engine"] == ("cuda" if gpu else "auto")
    assert container(deployment)["image"].endswith("-gpu") == gpu


def test_what_is_granted_is_enough(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = options(deployment, monkeypatch)
    limits = container(deployment)["resources"]["limits"]
    assert found["threads"] == int(limits["cpu"])
    # Decoding, half of it for what is found and half for answers, and bodies.
    bounded = 2 * found["max_decoded_mb"] + max(512, found["max_body_mb"])
    assert mebibytes(limits["memory"]) >= bounded + 1024
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > found["drain"] + 2 * found["timeout"]
    ready = container(deployment)["readinessProbe"]
    assert found["drain"] >= ready["periodSeconds"]


def test_probes_ask_for_what_there_is_without_a_key(deployment: Any, model: Model) -> None:
    probes = {
        name: container(deployment)[f"{name}Probe"] for name in ("startup", "readiness", "liveness")
    }
    with serving([model], settings=Settings(keys=("secret",))) as server:
        for name, probe in probes.items():
            answer = server.client.get(probe["httpGet"]["path"], headers={"Authorization": ""})
            state = "ready" if name == "readiness" else "live"
            assert (answer.status_code, answer.json()) == (200, {"status": state})
            assert probe["httpGet"]["port"] == container(deployment)["ports"][0]["name"]


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({"spec": {"replicas": "2"}}, ".spec.replicas: '2'"),
        ({"spec": {"replica": 2}}, ".spec.replica"),
        ({"spec": {"selector": []}}, ".spec.selector: []"),
        (
            {"spec": {"template": {"spec": {"containers": [{"env": [{"vale": "x"}]}]}}}},
            "env[].vale",
        ),
        ({"metadata": {"labels": {"a": 1}}}, ".metadata.labels.a: 1"),
    ],
)
def test_a_field_that_is_none_would_be_seen(fault: Any, found: str) -> None:
    (problem,) = problems(fault, DEPLOYMENT)
    assert problem.endswith(found)
