package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who can write the file could say what runs as root: from a file that is not
// root's alone no such program is run, and the user hears so.
func TestFileThatOthersCanWrite(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: another user's own file is no danger")
	}
	const small = "interface: eth0\nservices:\n  - {name: web, listen: [\"192.0.2.1:80/tcp\"], reals: [{address: 192.0.2.11}]}\n"
	const programs = `interface: eth0
notify: {exec: [/usr/local/bin/on-change], webhook: "http://192.0.2.5/"}
sloppy_tcp: true
bgp: {engine: hook, hook: {exec: [/usr/local/bin/announce]}}
services:
  - name: web
    listen: ["192.0.2.1:80/tcp"]
    scheduler: mh
    hooks: {quorum_down: [/usr/local/bin/down]}
    reals: [{address: 192.0.2.11, hooks: {up: [/usr/local/bin/up]}, check: {type: exec, argv: [/usr/local/bin/check]}}]
`
	for name, c := range map[string]struct {
		text    string
		spoil   func(file string) error
		says    string
		refused bool
	}{
		"root's alone":       {programs, func(string) error { return nil }, "", false},
		"writable by others": {programs, func(f string) error { return os.Chmod(f, 0o666) }, "writable by others", true},
		"another's":          {programs, func(f string) error { return os.Chown(f, 65534, 0) }, "not owned by root", true},
		"another's directory": {programs, func(f string) error {
			return os.Chown(filepath.Dir(f), 65534, 0)
		}, "not owned by root", true},
		"without programs": {small, func(f string) error { return os.Chmod(f, 0o622) }, "writable by others", false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "lvx.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(file); err != nil {
				t.Fatal(err)
			}
			r := new(Reader)
			for range 2 { // the second time from what the reader keeps
				cfg, err := r.Load(file)
				if err != nil {
					t.Fatal(err)
				}
				said := strings.Join(cfg.Warnings, "\n")
				if (said == "") != (c.says == "") || !strings.Contains(said, c.says) || strings.Contains(said, "are not run") != c.refused {
					t.Errorf("warnings: %q", said)
				}
				has := len(cfg.Notify.Exec)+len(cfg.Programs()) > 0
				if want := c.text == programs && !c.refused; has != want {
					t.Errorf("programs to run: %v %v, want some: %v", cfg.Notify.Exec, cfg.Programs(), want)
				}
				if c.text == programs && (cfg.Notify.Webhook == "" || len(cfg.Services[0].Checks[0]) != 1) {
					t.Error("webhook and checks went, too")
				}
			}
		})
	}
}
