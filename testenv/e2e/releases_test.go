package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// releases are the other builds of lvx that upgrades take. Each is made once, beside
// lvx itself, by the first test that asks for it.
var releases = struct {
	sync.Mutex
	made map[string]func() error
}{made: map[string]func() error{}}

// release gives the binary that build makes at the path it is given.
func release(t *testing.T, name string, build func(path string) error) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(lvx), name, "lvx")
	releases.Lock()
	makeOnce := releases.made[name]
	if makeOnce == nil {
		makeOnce = sync.OnceValue(func() error { return build(path) })
		releases.made[name] = makeOnce
	}
	releases.Unlock()
	must(t, makeOnce())
	return path
}

// buildVersion builds lvx with a version of its own.
func buildVersion(t *testing.T, version string) string {
	t.Helper()
	return release(t, version, func(path string) error {
		return toolchain(".", "build", "-ldflags", "-X main.version="+version, "-o", path, "github.com/lvx-lb/lvx/cmd/lvx")
	})
}

// buildOtherLayout builds lvx as a release would be whose counters, labels
// and reals have other layouts.
func buildOtherLayout(t *testing.T) string {
	t.Helper()
	return release(t, "other-layout", func(path string) error {
		tree, err := os.MkdirTemp(filepath.Dir(lvx), "tree-")
		if err != nil {
			return err
		}
		if err := copyTree(tree, "../.."); err != nil {
			return err
		}
		header := func(name string) string { return filepath.Join(tree, "bpf", name) }
		replaceIn(t, header("counts.h"), "struct counter {\n", "struct counter {\n\t__u64 of_another_release;\n")
		replaceIn(t, header("types.h"), "struct label {\n\tchar name[56];\n", "struct label {\n\t__u64 of_another_release;\n\tchar name[56];\n")
		if err := toolchain(tree, "generate", "./bpf"); err != nil {
			return err
		}
		return toolchain(tree, "build", "-o", path, "./cmd/lvx")
	})
}

// copyTree copies what a build of lvx reads.
func copyTree(to, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "."), name == "bin", name == "dist":
		case e.IsDir():
			err = os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(from, name)))
		default:
			var text []byte
			if text, err = os.ReadFile(filepath.Join(from, name)); err == nil {
				err = os.WriteFile(filepath.Join(to, name), text, 0o644)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func toolchain(dir string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
