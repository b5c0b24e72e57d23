package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Without a daemon there is what it has kept on the disk.
func TestHistoryWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("LVX_SOCKET", filepath.Join(dir, "none.sock"))
	file := filepath.Join(dir, "lvx.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "interface: eth0\nstate_dir: "+dir+"\n")
	code, out, stderr := lvx("history", "--config", file)
	if code != exitFailed || out != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "and what it has kept cannot be read: ") {
		t.Errorf("with nothing kept: %d %q %q", code, out, stderr)
	}
	write(filepath.Join(dir, "history.json"), `[{"time":"2026-11-26T03:00:00Z","kind":"health","subject":"web","text":"down"}]`)
	code, out, stderr = lvx("history", "--config", file)
	if code != exitDone || !strings.HasSuffix(out, " health   web: down\n") || !strings.HasPrefix(stderr, "lvx: no lvx runs here: ") || !strings.HasSuffix(stderr, "; this is what it has kept\n") {
		t.Errorf("%d %q %q", code, out, stderr)
	}
	if code, out, _ := lvx("history", "--config", file, "--kind", "role", "--json"); code != exitDone || out != "[]\n" {
		t.Errorf("of another kind: %d %q", code, out)
	}
}
