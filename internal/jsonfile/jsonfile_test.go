package jsonfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/internal/jsonfile"
)

type notes struct {
	Boot string   `json:"boot"`
	VIPs []string `json:"vips"`
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "down", "notes.json")
	var got notes
	if err := jsonfile.Read(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no file: %v", err)
	}
	for _, vips := range [][]string{{"a"}, {"a", "b"}, nil} {
		if err := jsonfile.Write(path, notes{"x", vips}, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := jsonfile.Check(path); err != nil {
			t.Error(err)
		}
		var got notes
		if err := jsonfile.Read(path, &got); err != nil || got.Boot != "x" || len(got.VIPs) != len(vips) {
			t.Errorf("read %+v, %v", got, err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode: %v, %v", st, err)
	}
	for range 2 {
		if err := jsonfile.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if left := names(t, filepath.Dir(path)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// What a power cut, a full disk or a joker leaves is moved aside and named.
func TestBrokenFiles(t *testing.T) {
	for name, c := range map[string]struct {
		put  func(path string) error
		says string
	}{
		"empty":     {content(""), "empty file"},
		"zeros":     {content("\x00\x00\x00"), "3 zero bytes"},
		"garbage":   {content("\x7fELF"), "invalid character"},
		"half":      {content(`{"boot": "x", "vi`), "unexpected end"},
		"two":       {content(`{} {}`), "after top-level value"},
		"type":      {content(`{"boot": 7}`), "cannot unmarshal number"},
		"directory": {func(p string) error { return os.Mkdir(p, 0o700) }, "not a regular file"},
		"symlink":   {func(p string) error { return os.Symlink("/etc/passwd", p) }, "symbolic link"},
		"pipe":      {func(p string) error { return unix.Mkfifo(p, 0o600) }, "not a regular file"},
		"large":     {func(p string) error { return errors.Join(content("{}")(p), os.Truncate(p, jsonfile.MaxSize+1)) }, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "notes.json")
			if err := c.put(path); err != nil {
				t.Fatal(err)
			}
			if err := jsonfile.Check(path); err == nil && name != "type" {
				t.Error("nothing is said to be wrong with it")
			}
			var got notes
			err := jsonfile.Read(path, &got)
			broken := new(jsonfile.BrokenError)
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want one that says %q", err, c.says)
			}
			left := names(t, dir)
			if len(left) != 1 || !strings.HasPrefix(left[0], "notes.json.broken-") || broken.MovedTo != filepath.Join(dir, left[0]) {
				t.Errorf("moved to %q, in the directory: %v", broken.MovedTo, left)
			}
			if err := jsonfile.Write(path, notes{Boot: "y"}, 0o600); err != nil {
				t.Errorf("after that: %v", err)
			}
		})
	}
}

func content(text string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
}

// In a directory that others can write to, a planted link is not followed:
// neither at the file's name nor at that of its next version.
func TestPlantedLinks(t *testing.T) {
	for _, planted := range []string{"notes.json", "notes.json.new"} {
		t.Run(planted, func(t *testing.T) {
			dir := t.TempDir()
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(victim, filepath.Join(dir, planted)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "notes.json")
			if err := jsonfile.Write(path, notes{Boot: "x"}, 0o600); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
				t.Errorf("the link's target holds %q, %v", b, err)
			}
			if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
				t.Errorf("%v, %v", st, err)
			}
		})
	}
}

// A write that fails leaves the old value, and nothing beside it.
func TestFailedWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "notes.json")
	if err := jsonfile.Write(path, notes{Boot: "old"}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := jsonfile.Write(path, func() {}, 0o600); err == nil {
		t.Error("a function was written")
	}
	if err := os.MkdirAll(filepath.Join(path+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := jsonfile.Write(path, notes{Boot: "new"}, 0o600); err == nil {
		t.Error("written over a directory that is not empty")
	}
	var got notes
	if err := jsonfile.Read(path, &got); err != nil || got.Boot != "old" {
		t.Errorf("read %+v, %v", got, err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range list {
		all = append(all, e.Name())
	}
	return all
}

// Who reads a file is decided by its mode, not by how the daemon was started.
func TestReplaceWhateverTheUmask(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes")
	defer unix.Umask(unix.Umask(0o077))
	for _, text := range []string{"one", ""} {
		if err := jsonfile.Replace(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("%q, %v, want %q", got, err, text)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("mode %v, %v, want 0644", info.Mode(), err)
		}
	}
}
