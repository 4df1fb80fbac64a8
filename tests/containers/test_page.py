"""``docs/containers.md`` as a new user follows it: its commands, run by a shell as they are printed, where they need no
Docker and no cluster. What ``docker compose up`` would start is made of the compose file's own words."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.conftest import Pods
from tests.containers.image import Image
from tests.containers.reach import request
from tests.containers.test_service import Serve, answers
from tests.helpers import ROOT, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PAGE = (ROOT / "docs" / "containers.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def shell(script: str, directory: Path, *before: str) -> str:
    done = subprocess.run([*before, "bash", "-euc", script], cwd=directory, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def block(word: str) -> str:
    """The first one with it."""
    return next(text for kind, text in BLOCKS if kind == "sh" and word in text)


def test_the_compose_files_service_answers_the_pages_first_request(
    image: Image, pods: Pods, serve: Serve, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "deploy" / "container", checkout / "deploy" / "container")
    before, docker, after = block("openssl").partition("docker compose -f deploy/container/compose.yml up --build\n")
    assert docker and not after
    shell(before, checkout)

    compose = yaml.safe_load((checkout / "deploy" / "container" / "compose.yml").read_text())
    token = (checkout / "deploy" / "container" / compose["secrets"]["worker-token"]["file"]).resolve()
    pod = pods(size="64m")
    redis = compose["services"]["redis"]
    assert redis["command"][redis["command"].index("--maxclients") + 1] == "1000"
    serve(pod, 999)
    environ: dict[str, Any] = compose["services"]["service"]["environment"]
    assert environ["WORKER_TOKEN_FILE"] == f"/run/secrets/{token.name}"
    path = pod.secret(token.name, token.read_text())
    (pod.home / "secrets" / token.name).chmod(token.stat().st_mode & 0o777)
    here = {"WORKER_TOKEN_FILE": path, "REDIS_URL": environ["REDIS_URL"].replace("//redis:", "//127.0.0.1:")}
    container = pod.run(image, command=None, **{**environ, **here})
    wait_for(lambda: not container.running or answers(pod, "/readyz"), 60, what="the service is ready")
    assert container.running, container.log
    wait_for(lambda: container.exec(*image.health).returncode == 0, 30, what="it is healthy")

    place = next(number for number, (_, text) in enumerate(BLOCKS) if "curl" in text)
    (_, command), (kind, expected) = BLOCKS[place : place + 2]
    assert kind == "json"
    assert shell(command, checkout, "nsenter", "-t", str(pod.pid), "--net").strip() == expected.strip()
    assert container.stop() == 0


def test_the_secret_of_the_page_has_what_the_manifests_ask_for(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl to make the secret with")
    *_, create, apply = block("kubectl create secret").splitlines()
    secret = yaml.safe_load(shell(f"{create} --dry-run=client -o yaml", tmp_path))
    assert apply == "kubectl apply -k deploy/container/kubernetes/base"
    manifest = yaml.safe_load((ROOT / "deploy/container/kubernetes/base/deployment.yaml").read_text())
    spec = manifest["spec"]["template"]["spec"]
    (url,) = [
        variable["valueFrom"]["secretKeyRef"] for variable in spec["containers"][0]["env"] if "valueFrom" in variable
    ]
    (token,) = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert secret["metadata"]["name"] == url["name"] == token["secretName"]
    assert set(secret["data"]) == {url["key"], *(item["key"] for item in token["items"])}
    assert len(base64.b64decode(secret["data"]["worker-token"])) == 64


@pytest.mark.parametrize("overlay", ["base", "sidecar"])
def test_all_containers_get_the_image_that_the_page_names(overlay: str, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl to put the manifests together")
    shutil.copytree(ROOT / "deploy" / "container" / "kubernetes", tmp_path / "kubernetes")
    text = next(text for kind, text in BLOCKS if kind == "yaml" and text.startswith("images:"))
    with (tmp_path / "kubernetes" / overlay / "kustomization.yaml").open("a") as file:
        file.write(text)
    documents = yaml.safe_load_all(shell(f"kubectl kustomize kubernetes/{overlay}", tmp_path))
    (spec,) = [found["spec"]["template"]["spec"] for found in documents if found["kind"] == "Deployment"]
    found = [container["image"] for container in [*spec["containers"], *spec.get("initContainers", [])]]
    assert set(found) == {"registry.example/redis-poolmgr:1"}
    assert "=registry.example/redis-poolmgr:1)" in block("kustomize edit"), "the same as with the command"


APP = """
import poolmgr
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % poolmgr.get_client().incr("app:visits")]
"""


def test_the_pages_application_runs(image: Image, pods: Pods, serve: Serve) -> None:
    """Its own lines, with what they copy in a place that the test's container has."""
    (text,) = [text for kind, text in BLOCKS if kind == "dockerfile"]
    words = dict(line.split(maxsplit=1) for line in text.splitlines() if not line.startswith("USER 0"))
    assert words["USER"] == image.user, "it is not root's"
    name, place = words["COPY"].split()
    assert place.rstrip("/") == words["WORKDIR"]
    pod = pods()
    serve(pod)
    own = dataclasses.replace(
        image, directory=str(Path(pod.secret(name, APP)).parent), command=json.loads(words["CMD"])
    )
    environ = {"REDIS_URL": "redis://127.0.0.1:6379/0", "REDIS_CONNECTION_BUDGET": "8", "WEB_CONCURRENCY": "1"}
    container = pod.run(own, command=None, **environ)
    wait_for(lambda: not container.running or answers(pod, "/"), 60, what="the application answers")
    assert container.running, container.log
    assert int(request(pod.pid, "GET", "/").body) >= 2
    assert container.exec("pip", "--version").returncode == 0, "the image can be added to"
    assert container.stop() == 0


def test_the_page_shows_the_fleet_settings_of_the_manifests() -> None:
    """And names each of them that a reader has to change."""
    manifest = yaml.safe_load((ROOT / "deploy/container/kubernetes/base/deployment.yaml").read_text())
    given = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    shown = yaml.safe_load(next(text for kind, text in BLOCKS if kind == "yaml" and "REDIS_FLEET" in text))
    assert shown == [variable for variable in given if variable["name"].startswith("REDIS_FLEET")]


def test_what_the_page_says_of_grace_and_processes_is_what_the_files_say() -> None:
    manifest = yaml.safe_load((ROOT / "deploy/container/kubernetes/base/deployment.yaml").read_text())["spec"]
    compose = yaml.safe_load((ROOT / "deploy/container/compose.yml").read_text())["services"]["service"]
    for words in (
        f"`terminationGracePeriodSeconds: {manifest['template']['spec']['terminationGracePeriodSeconds']}`",
        f"`stop_grace_period: {compose['stop_grace_period']}`",
        f"`pids_limit: {compose['pids_limit']}`",
        f"`ulimits: nofile: {compose['ulimits']['nofile']}`",
        "`" + ", ".join(f"{name}: {value}" for name, value in manifest["strategy"]["rollingUpdate"].items()) + "`",
    ):
        assert words in PAGE, words
