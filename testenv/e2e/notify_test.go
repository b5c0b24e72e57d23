package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lvx-lb/lvx/testenv"
)

// A real that goes down is told by mail, through a real mail server, by a
// webhook and by a program.
func TestPeopleAreTold(t *testing.T) {
	t.Parallel()
	r := newRig(t, testenv.Shape{Directors: 1})
	mails := mailServer(t, r.Client)
	hooks := webhook(t, r.Client)
	script, events := hookScript(t)
	body := checked("type: tcp", "") + fmt.Sprintf(`notify:
  exec: [%s]
  smtp: {server: "172.25.0.50:2525", from: lvx@d1, to: [root@localhost]}
  webhook: "http://172.25.0.50:8080/lvx"
`, script)
	must(t, r.Direct(t.Context(), "d1", body))
	realsUp(t, r, "r1", "r2")
	must(t, r.Webs["r1"].Close())

	want := []string{"172.25.0.12", "down", "refused"}
	for name, read := range map[string]func() string{
		// Quoted-printable breaks a long line wherever its 76 columns end.
		"mail":    func() string { return strings.ReplaceAll(files(t, filepath.Join(mails, "new")), "=\n", "") },
		"webhook": hooks,
		"program": func() string { return files(t, events) },
	} {
		eventually(t, func() error {
			text := read()
			for _, w := range want {
				if !strings.Contains(text, w) {
					return fmt.Errorf("%s: no %q in\n%s", name, w, text)
				}
			}
			return nil
		})
	}
}

// mailServer runs aiosmtpd on a host and gives the maildir that it fills.
func mailServer(t *testing.T, h *testenv.Host) string {
	t.Helper()
	dir := filepath.Join(h.Dir(), "mail")
	_, err := h.Start("aiosmtpd", "-n", "-l", "172.25.0.50:2525", "-c", "aiosmtpd.handlers.Mailbox", dir)
	must(t, err)
	eventually(t, func() error {
		conn, err := h.Dial(t.Context(), "tcp", "172.25.0.50:2525")
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	return dir
}

// webhook serves on a host and gives all documents that were posted.
func webhook(t *testing.T, h *testenv.Host) func() string {
	t.Helper()
	l, err := h.Listen("tcp", ":8080")
	must(t, err)
	var mu sync.Mutex
	var got strings.Builder
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		b, err := io.ReadAll(req.Body)
		mu.Lock()
		defer mu.Unlock()
		if err != nil || !json.Valid(b) || req.Method != http.MethodPost {
			fmt.Fprintf(&got, "%s that is not JSON: ", req.Method)
		}
		fmt.Fprintf(&got, "%s\n", b)
	})}
	go srv.Serve(l) // ends with the listener
	t.Cleanup(func() { _ = srv.Close() })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return got.String()
	}
}

// hookScript is a program that writes its environment into a directory. Its
// path must be trustworthy: owned by root, writable by nobody else.
func hookScript(t *testing.T) (script, dir string) {
	t.Helper()
	home, err := os.MkdirTemp("/run", "lvx-e2e-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	must(t, os.Chmod(home, 0o755))
	dir = filepath.Join(home, "told")
	must(t, os.Mkdir(dir, 0o777))
	must(t, os.Chmod(dir, 0o777))
	script = filepath.Join(home, "on-change")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\nenv | grep ^LVX_ >"+dir+"/$$\n"), 0o755))
	return script, dir
}

// files is the text of all files in a directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		all.Write(b)
	}
	return all.String()
}
