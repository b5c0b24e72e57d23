package guard_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/lvx-lb/lvx/pkg/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "",
		"plain":                  "plain",
		"  two\r\n\twords \n":    "two words",
		"\x1b[31mred\x1b[0m\x00": "?[31mred?[0m?",
		"Grüße, 世界":              "Grüße, 世界",
		"bad \xff\xfe utf8":      "bad ?? utf8",
		"admin\u202egnp.exe":     "admin?gnp.exe",
		"no\u00a0break":          "no break",
		strings.Repeat("x", 200): strings.Repeat("x", 200),
		strings.Repeat("x", 201): strings.Repeat("x", 197) + "…",
		strings.Repeat("ü", 100): strings.Repeat("ü", 100),
		strings.Repeat("ü", 101): strings.Repeat("ü", 98) + "…",
		strings.Repeat("x", 200) + strings.Repeat(" ", 9): strings.Repeat("x", 200),
	} {
		if got := guard.Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add(strings.Repeat("世 ", 100) + "\x1b]0;title\x07")
	f.Fuzz(func(t *testing.T, s string) {
		got := guard.Text(s)
		if len(got) > guard.MaxText || !utf8.ValidString(got) {
			t.Fatalf("Text(%q) = %q, %d bytes", s, got, len(got))
		}
		for _, r := range got {
			if r != ' ' && !unicode.IsPrint(r) {
				t.Fatalf("Text(%q) holds %q", s, r)
			}
		}
		if again := guard.Text(got); again != got {
			t.Fatalf("Text(%q) = %q, and again %q", s, got, again)
		}
	})
}

// script writes an executable that only root can change and everybody can
// run. It returns its name and that of the directory of its own.
func script(t *testing.T, text string) (name, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "guard") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name = filepath.Join(dir, "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name, dir
}

func TestRun(t *testing.T) {
	name, _ := script(t, `echo "$0 $1 $2; $LVX_A; ${HOME:-no home}; $(pwd)"; echo err >&2; exit ${3:-0}`)
	t.Setenv("HOME", "/root")
	p := guard.Program{Argv: []string{name, "$(id)", "a b"}, Env: []string{"LVX_A=x y"}}
	out, err := p.Run(t.Context())
	if want := name + " $(id) a b; x y; no home; /\nerr\n"; out != want || err != nil {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
	p.Argv = append(p.Argv, "7")
	if _, err := p.Run(t.Context()); err == nil || err.Error() != "exit status 7" {
		t.Errorf("%v, want exit status 7", err)
	}
	name, _ = script(t, "kill -SEGV $$")
	if _, err := (guard.Program{Argv: []string{name}}).Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "killed by signal 11") {
		t.Errorf("%v, want a signal", err)
	}
	if _, err := (guard.Program{}).Run(t.Context()); err == nil {
		t.Error("an empty command ran")
	}
}

func TestRunBoundsOutput(t *testing.T) {
	name, _ := script(t, "head -c 1000000 /dev/zero | tr '\\0' x")
	out, err := guard.Program{Argv: []string{name}}.Run(t.Context())
	if len(out) != 4<<10 || err != nil {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestRunAsNobody(t *testing.T) {
	name, _ := script(t, "id -u; id -G")
	user := guard.Unprivileged()
	out, err := guard.Program{Argv: []string{name}, As: user}.Run(t.Context())
	if want := fmt.Sprintf("%d\n%d\n", user.Uid, user.Gid); out != want || err != nil || user.Uid == 0 || user.Gid == 0 {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}

// running reports whether a process is there and not a zombie.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// waitForEnd waits until the process whose number is in the file has ended.
func waitForEnd(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); running(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}

// The whole group of a program that hangs is killed, with the child that
// holds the pipe.
func TestRunKillsGroup(t *testing.T) {
	name, dir := script(t, "trap '' TERM; sleep 1000 & echo $! >$1/child.new; mv $1/child.new $1/child; echo started; wait")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(dir + "/child"); err == nil {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := guard.Program{Argv: []string{name, dir}}.Run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	waitForEnd(t, dir+"/child")
}

// A program that exits does not leave its children behind, nor wait for
// them.
func TestRunEndsBackground(t *testing.T) {
	name, dir := script(t, "sleep 1000 & echo $! >$1/child; exit 0")
	if _, err := (guard.Program{Argv: []string{name, dir}}).Run(t.Context()); err != nil {
		t.Error(err)
	}
	waitForEnd(t, dir+"/child")
}

// A child with a session of its own that keeps the pipe does not hold Run up.
func TestRunOutlivesStrayChild(t *testing.T) {
	name, dir := script(t, "setsid sh -c 'echo $$ >$0/new; mv $0/new $0/child; exec sleep 1000' $1 & while [ ! -e $1/child ]; do sleep 0.01; done; exit 4")
	_, err := guard.Program{Argv: []string{name, dir}}.Run(t.Context())
	if err == nil || err.Error() != "exit status 4" {
		t.Errorf("%v, want exit status 4", err)
	}
	b, err := os.ReadFile(dir + "/child")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestTrusted(t *testing.T) {
	name, dir := script(t, "")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{name, link, "/bin/sh"} {
		if file, err := guard.Trusted(n); err != nil || !filepath.IsAbs(file) || file == link {
			t.Errorf("%s: %q, %v", n, file, err)
		}
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, want string
		prepare    func() error
	}{
		{"program", "not an absolute path", nil},
		{dir + "/none", "no such file", nil},
		{dir, "not an executable file", nil},
		{name, "not an executable file", func() error { return os.Chmod(name, 0o644) }},
		{name, "writable by others", func() error { return os.Chmod(name, 0o775) }},
		{link, "writable by others", func() error { return os.Chmod(name, 0o757) }},
		{name, "not owned by root", func() error {
			return errors.Join(os.Chmod(name, 0o755), os.Chown(name, 65534, 0))
		}},
		{open + "/program", "writable by others", func() error {
			return errors.Join(os.Chown(name, 0, 0), os.Chmod(open, 0o777), os.Rename(name, open+"/program"))
		}},
		{open + "/program", "not owned by root", func() error {
			return errors.Join(os.Chmod(open, 0o755), os.Chown(open, 65534, 0))
		}},
	} {
		if step.prepare != nil {
			if err := step.prepare(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := guard.Trusted(step.name); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v, want %q", step.name, err, step.want)
		}
		if _, err := (guard.Program{Argv: []string{step.name}}).Run(t.Context()); err == nil {
			t.Errorf("%s (%s): it ran", step.name, step.want)
		}
	}
}
