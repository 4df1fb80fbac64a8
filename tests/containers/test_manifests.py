"""The manifests and the compose file: valid by their published schemas, and of one mind with image and gunicorn."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from gunicorn.config import GracefulTimeout

from poolmgr.settings.table import BY_NAME
from tests.containers.image import FILE, steps
from tests.helpers import ROOT

HERE = ROOT / "deploy" / "container"
MANIFESTS = HERE / "kubernetes"
VERSIONS = ("1.29", "1.32", kubernetes_validate.latest_version())
"""From the first with sidecars that are on by default."""

GUNICORNS = ("WEB_CONCURRENCY",)


@cache
def built(overlay: str) -> tuple[dict[str, Any], ...]:
    """What ``kubectl apply -k`` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl to put the manifests together")
    done = subprocess.run(["kubectl", "kustomize", str(MANIFESTS / overlay)], capture_output=True, text=True)
    if "unknown field" in done.stderr and "patches" in done.stderr:
        pytest.skip("this kubectl is older than 1.21")
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def deployment(overlay: str) -> dict[str, Any]:
    (found,) = [document for document in built(overlay) if document["kind"] == "Deployment"]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def containers(overlay: str) -> list[dict[str, Any]]:
    spec = deployment(overlay)
    return [*spec.get("initContainers", []), *spec["containers"]]


def raw() -> list[Path]:
    return [
        path for path in sorted(MANIFESTS.rglob("*.yaml")) if path.name not in ("kustomization.yaml", "supervisor.yaml")
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", raw(), ids=lambda path: path.name)
def test_each_manifest_is_valid(path: Path, version: str) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", ["base", "sidecar"])
def test_what_kustomize_makes_of_them_is_valid(overlay: str, version: str) -> None:
    documents = built(overlay)
    assert sorted(document["kind"] for document in documents) == ["Deployment", "PodDisruptionBudget", "Service"]
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_is_found() -> None:
    """These schemas can fail."""
    document = yaml.safe_load((MANIFESTS / "base" / "deployment.yaml").read_text())
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def schema() -> Any:
    text = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    return json.loads(text)


def test_the_compose_file_is_valid() -> None:
    compose = yaml.safe_load((HERE / "compose.yml").read_text())
    validator = jsonschema.validators.validator_for(schema())(schema())
    validator.validate(compose)
    compose["services"]["service"]["read_onlyy"] = True
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(compose)


@pytest.mark.parametrize("overlay", ["base", "sidecar"])
def test_every_variable_is_one_of_ours(overlay: str) -> None:
    for container in containers(overlay):
        for variable in container.get("env", []):
            name = variable["name"]
            assert name in BY_NAME or name in GUNICORNS, name
            if "value" in variable and name in BY_NAME:
                BY_NAME[name].read(variable["value"])
    compose = yaml.safe_load((HERE / "compose.yml").read_text())
    for name, value in compose["services"]["service"]["environment"].items():
        assert name in BY_NAME or name in GUNICORNS, name
        if name in BY_NAME:
            BY_NAME[name].read(value)


@pytest.mark.parametrize("overlay", ["base", "sidecar"])
def test_a_pod_gives_what_the_image_needs_and_no_more(overlay: str) -> None:
    spec = deployment(overlay)
    (user,) = [text for instruction, text in steps() if instruction == "USER"]
    context = spec["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context["runAsNonRoot"]
    assert not spec["enableServiceLinks"]
    exposed = {int(port) for instruction, text in steps() if instruction == "EXPOSE" for port in text.split()}
    assert {port["containerPort"] for container in containers(overlay) for port in container["ports"]} == exposed
    for container in containers(overlay):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert not mounts["/tmp"].get("readOnly")
        assert all(mount.get("readOnly") for path, mount in mounts.items() if path != "/tmp")
        assert container["resources"]["limits"]["memory"]
        assert container["livenessProbe"]["httpGet"]["path"] in ("/healthz", "/metrics")
    assert {container["image"] for container in containers(overlay)} == {"redis-poolmgr"}


def test_the_grace_is_longer_than_all_that_uses_it() -> None:
    spec = deployment("base")
    (service,) = spec["containers"]
    before = int(service["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= before + GracefulTimeout.default + 5
    compose = yaml.safe_load((HERE / "compose.yml").read_text())
    assert int(compose["services"]["service"]["stop_grace_period"].rstrip("s")) >= GracefulTimeout.default + 5


def test_the_memory_limit_is_the_sum_on_the_page() -> None:
    """What callers can have taken, for the workers and threads that are stated. The rest fits in too."""
    page = (ROOT / "docs" / "containers.md").read_text()
    sum_of = r"can take (\d) x \((\d) x 4 x (\d+) \+ 64 \+ 60\) = (\d+) MB, hence the limit of (\d+) MiB"
    found = re.search(sum_of, page)
    assert found, "the sum"
    workers, threads, reply, total, limit = map(int, found.groups())
    assert total == workers * (threads * 4 * reply + 64 + 60)
    assert reply << 20 == BY_NAME["WORKER_MAX_REPLY"].default_value()
    size = 64
    assert (limit << 20) >= total * 10**6 + (40 + size) * 10**6
    (service,) = deployment("base")["containers"]
    given = {variable["name"]: variable.get("value") for variable in service["env"]}
    compose = yaml.safe_load((HERE / "compose.yml").read_text())["services"]["service"]
    for environ in (given, compose["environment"]):
        assert (environ["WEB_CONCURRENCY"], environ["WORKER_THREADS"]) == (str(workers), str(threads))
    assert service["resources"]["limits"]["memory"] == f"{limit}Mi"
    assert compose["mem_limit"] == f"{limit}m"
    (volume,) = [volume for volume in deployment("base")["volumes"] if volume["name"] == "tmp"]
    assert volume["emptyDir"]["sizeLimit"] == f"{size}Mi"
    assert compose["tmpfs"] == [f"/tmp:size={size}m,mode=1777"]


def test_the_sidecar_stays_and_all_containers_meet_in_one_place() -> None:
    spec = deployment("sidecar")
    (supervisor,), (service,) = spec["initContainers"], spec["containers"]
    assert spec["shareProcessNamespace"] is True
    assert supervisor["restartPolicy"] == "Always", "a sidecar, and no step before the start"
    of = {
        container["name"]: {v["name"]: v.get("value") for v in container["env"]} for container in (supervisor, service)
    }
    assert of["supervisor"]["POOLMGR_LINGER"] == "forever"
    assert of["service"]["POOLMGR_AUTOSTART"] == "0"
    for name in ("REDIS_FLEET", "REDIS_FLEET_BUDGET"):
        assert of["service"][name] and of["service"][name] == of["supervisor"][name]
    assert "command" not in supervisor and "command" not in service, "the image's entry point stays"
    assert {m["mountPath"] for m in supervisor["volumeMounts"]} == {"/tmp"}


def test_the_image_takes_in_what_is_locked() -> None:
    text = FILE.read_text()
    assert "--require-hashes --no-deps -r locks/build.txt -r locks/service.txt" in text
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    assert {f"!{name}" for words in sources for name in words.split()} == {line for line in ignored if line[:1] == "!"}
