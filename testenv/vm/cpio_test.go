package vm

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCpio: busybox's cpio, as the kernel's, takes out what was put in.
func TestCpio(t *testing.T) {
	if err := provide(t.Context(), os.Stderr, []string{"busybox"}); err != nil {
		t.Fatal(err)
	}
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "tool"), []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", filepath.Join(host, "alias")); err != nil {
		t.Fatal(err)
	}
	root := tree{}
	root.put("/etc/empty", 0o600, nil)
	root.put("/etc/odd", 0o644, []byte("12345"))
	root.link("/bin", "usr/bin")
	root.dir("/a/b/c")
	if err := root.add("/usr/host", host); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := root.write(&archive); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("busybox", "cpio", "-i", "-d")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	want := map[string]string{
		"a": "drwxr-xr-x", "a/b": "drwxr-xr-x", "a/b/c": "drwxr-xr-x", "bin": "usr/bin",
		"etc": "drwxr-xr-x", "etc/empty": "-rw------- ", "etc/odd": "-rw-r--r-- 12345",
		"usr": "drwxr-xr-x", "usr/host": "drwxr-xr-x", "usr/host/tool": "-rwxr-xr-x #!", "usr/host/alias": "-rwxr-xr-x #!",
	}
	if diff := cmp.Diff(want, list(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var again bytes.Buffer
	if err := root.write(&again); err != nil || !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Errorf("a second archive differs (error %v)", err)
	}
}

// list describes every file below dir: mode and content, or a link's target.
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		info, err := d.Info()
		if err != nil {
			return err
		}
		got[name] = info.Mode().String()
		switch {
		case d.Type() == fs.ModeSymlink:
			got[name], err = os.Readlink(path)
		case d.Type().IsRegular():
			var b []byte
			b, err = os.ReadFile(path)
			got[name] += " " + string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestCpioChanged: a file that grew after it was listed would shift all that
// follows.
func TestCpioChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("short"), 0o644); err != nil {
		t.Fatal(err)
	}
	root := tree{}
	if err := root.add("/f", file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("longer than before"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := root.write(&bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("error %v", err)
	}
}

func TestMerged(t *testing.T) {
	for from, want := range map[string]string{
		"/bin/bash": "/usr/bin/bash", "/lib64/ld.so": "/usr/lib64/ld.so", "/usr/sbin/ip": "/usr/sbin/ip", "/library/x": "/library/x",
	} {
		if got := merged(from); got != want {
			t.Errorf("%s: got %s, want %s", from, got, want)
		}
	}
}
