// Package packaging_test builds what is handed out and tries it: the Debian
// packages and the container image.
package packaging_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// run runs a command at the top of the repository.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// built builds a kind of artefact and gives the paths with a suffix, from the
// top of the repository.
func built(t *testing.T, kind, suffix string) []string {
	t.Helper()
	run(t, "rm", "-rf", "dist")
	var found []string
	for _, line := range strings.Fields(run(t, "packaging/build", kind)) {
		if strings.HasSuffix(line, suffix) {
			found = append(found, line)
		}
	}
	return found
}

func TestDist(t *testing.T) {
	files := built(t, "dist", "")
	of := func(suffix string) (found []string) {
		for _, file := range files {
			if strings.HasSuffix(file, suffix) {
				found = append(found, file)
			}
		}
		if len(found) != 2 {
			t.Fatalf("built %q, want two of %s", files, suffix)
		}
		return found
	}
	run(t, "sh", "-c", "cd dist && sha256sum --quiet -c SHA256SUMS")
	for i, archive := range of(".tar.gz") {
		if list := run(t, "tar", "-tzf", archive); !strings.Contains(list, "/lvx\n") || !strings.Contains(list, "/man/man8/lvx.8.gz\n") {
			t.Errorf("%s holds\n%s", archive, list)
		}
		bom, err := os.ReadFile(filepath.Join("..", of(".cdx.json")[i]))
		if err != nil {
			t.Fatal(err)
		}
		var materials struct {
			Components []struct{ Name, Version string }
		}
		if err := json.Unmarshal(bom, &materials); err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(materials.Components, func(c struct{ Name, Version string }) bool {
			return c.Name == "github.com/cilium/ebpf" && c.Version != ""
		}) {
			t.Errorf("the materials of %s lack a library that it is made of: %s", archive, bom)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if script := run(t, "cat", "dist/share/completions/lvx."+shell); !strings.Contains(script, "__complete") {
			t.Errorf("completion for %s:\n%s", shell, script)
		}
	}
	run(t, "bash", "-n", "dist/share/completions/lvx.bash")
	debianPackages(t, of(".deb"))
}

func debianPackages(t *testing.T, debs []string) {
	for _, deb := range debs {
		arch := strings.TrimSuffix(deb[strings.LastIndex(deb, "_")+1:], ".deb")
		if got := strings.TrimSpace(run(t, "dpkg-deb", "-f", deb, "Architecture")); got != arch {
			t.Errorf("%s is for %s", deb, got)
		}
		// It fails on an error that no override explains.
		run(t, "lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning", deb)
	}
	native := debs[0]
	if host := strings.TrimSpace(run(t, "dpkg", "--print-architecture")); strings.HasSuffix(debs[1], "_"+host+".deb") {
		native = debs[1]
	}
	contents := run(t, "dpkg-deb", "-c", native)
	for _, path := range []string{
		"./usr/bin/lvx", "./etc/lvx/lvx.yaml", "./lib/systemd/system/lvx.service", "./usr/share/man/man8/lvx-run.8.gz",
		"./usr/share/man/man5/lvx.yaml.5.gz", "./usr/share/bash-completion/completions/lvx", "./usr/share/zsh/vendor-completions/_lvx",
		"./usr/share/fish/vendor_completions.d/lvx.fish",
	} {
		if !strings.Contains(contents, " "+path+"\n") {
			t.Errorf("%s has no %s", native, path)
		}
	}
	t.Run("life", func(t *testing.T) { live(t, native) })
}

// live installs a package with a root directory of its own, changes what an
// administrator would, installs it again, removes and purges it.
func live(t *testing.T, deb string) {
	root := filepath.Join(t.TempDir(), "root")
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log", "etc", "usr/bin", "lib"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"var/lib/dpkg/status", "var/lib/dpkg/available"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The scripts speak to a systemd that is not there; a recorder takes the
	// place of its helpers.
	helpers := t.TempDir()
	log := filepath.Join(helpers, "log")
	for _, name := range []string{"deb-systemd-helper", "deb-systemd-invoke", "systemctl"} {
		script := "#!/bin/sh\necho " + name + " \"$@\" >>" + log + "\n"
		if err := os.WriteFile(filepath.Join(helpers, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dpkg := func(args ...string) string {
		t.Helper()
		os.Remove(log)
		// In mounts of its own, where systemd seems to run.
		run(t, "unshare", append([]string{
			"-m", "sh", "-c", `mount -t tmpfs none /run && mkdir -p /run/systemd/system && exec "$@"`, "sh", "env",
			"PATH=" + helpers + ":" + os.Getenv("PATH"), "dpkg", "--root=" + root, "--force-script-chrootless",
			"--force-not-root", "--force-confold", "--log=" + root + "/var/log/dpkg.log",
		}, args...)...)
		said, _ := os.ReadFile(log)
		return string(said)
	}
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return err == nil
	}

	if said := dpkg("-i", deb); strings.Contains(said, "start") {
		t.Errorf("a first installation starts what is not configured:\n%s", said)
	}
	if !exists("usr/bin/lvx") || !exists("etc/lvx/lvx.yaml") {
		t.Fatal("the package is not installed")
	}
	const edited = "interface: eth7\n"
	if err := os.WriteFile(filepath.Join(root, "etc/lvx/lvx.yaml"), []byte(edited), 0o640); err != nil {
		t.Fatal(err)
	}
	if said := dpkg("-i", deb); strings.Contains(said, " stop") || !strings.Contains(said, "deb-systemd-invoke try-restart lvx.service") {
		t.Errorf("an upgrade hands over by a restart, and stops nothing:\n%s", said)
	}
	if text, _ := os.ReadFile(filepath.Join(root, "etc/lvx/lvx.yaml")); string(text) != edited {
		t.Errorf("an upgrade wrote over the configuration:\n%s", text)
	}
	if said := dpkg("-r", "lvx"); !strings.Contains(said, "deb-systemd-invoke stop lvx.service lvx-real.service") {
		t.Errorf("a removal stops what runs:\n%s", said)
	}
	if exists("usr/bin/lvx") || !exists("etc/lvx/lvx.yaml") {
		t.Error("a removal takes the program and leaves the configuration")
	}
	if said := dpkg("-P", "lvx"); !strings.Contains(said, "deb-systemd-helper purge lvx.service") {
		t.Errorf("a purge forgets nothing of the unit:\n%s", said)
	}
	if left := strings.TrimSpace(run(t, "find", root, "-name", "*lvx*")); left != "" {
		t.Errorf("a purge leaves\n%s", left)
	}
}
