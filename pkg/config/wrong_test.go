package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/lvx-lb/lvx/pkg/config"
)

// marker is where a wrong configuration says what is wrong with its line.
const marker = "  # ERROR "

// wrong reads the archives of wrong configurations, by archive and name.
func wrong(t testing.TB) map[string][]byte {
	t.Helper()
	archives, err := filepath.Glob("testdata/wrong/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("found %d archives of wrong configurations: %v", len(archives), err)
	}
	all := map[string][]byte{}
	for _, name := range archives {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range ar.Files {
			key := strings.TrimSuffix(filepath.Base(name), ".txtar") + "/" + f.Name
			if all[key] != nil {
				t.Errorf("%s is there twice", key)
			}
			all[key] = f.Data
		}
	}
	return all
}

// Some repeat what ipvsadm refuses (ipvs-facts/06, ipvs-facts/08 section 11,
// ipvs-facts/09 section 6), others what lvx does beyond that (ipvs-facts/05
// section 10, ipvs-facts/09 section 2).
func TestWrongConfigurations(t *testing.T) {
	for name, data := range wrong(t) {
		t.Run(name, func(t *testing.T) {
			before, after, ok := strings.Cut(string(data), marker)
			if !ok {
				t.Fatal("no ERROR comment")
			}
			text, _, _ := strings.Cut(after, "\n")
			want := fmt.Sprintf("lvx.yaml:%d: %s", 1+strings.Count(before, "\n"), text)
			_, err := config.Parse("lvx.yaml", data)
			if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			var e *config.Error
			if !errors.As(err, &e) {
				t.Errorf("error of type %T", err)
			}
		})
	}
}

// What no comment can be written into.
func TestWrongBytes(t *testing.T) {
	lines := func(n int, s string) string { return strings.Repeat(s, n) }
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", `1: empty file (want at least "interface: NAME")`},
		{"blank", "\n\n \n", `1: empty file (want at least "interface: NAME")`},
		{"only a marker", "---\n", `1: empty file (want at least "interface: NAME")`},
		{"not UTF-8", "interface: eth0\nbackend: \xff\n", "2: byte 0xff (want a text file in UTF-8)"},
		{"UTF-16", "\xff\xfei\x00:\x00", "1: byte 0xff (want a text file in UTF-8)"},
		{"NUL", "interface: eth0\n\n\x00", "3: control character U+0000 (want a text file in UTF-8)"},
		{"escape sequence", "interface: \x1b[31meth0\n", "1: control character U+001B (want a text file in UTF-8)"},
		{"too large", lines(config.MaxSize/8+1, "# 34567\n"), "1: file is too large (want at most 16 MiB)"},
		{"no end of brackets", "interface: " + lines(20_000, "["), "1: exceeded max depth of 10000"},
		{"aliases of aliases", laughs(9), "1: a0: unknown key (want one of admin, allow, backend, bfd, bgp, deny, expire_nodest_conn, expire_quiescent_template, interface, interfaces, notify, outer_source, peers, pin_dir, runtime, services, sloppy_tcp, state_dir, stop_grace, sync, tables, timeouts, vrrp, xdp_mode)"},
		{"long value", "interface: eth0\nbackend: " + lines(1000, "x"), `2: backend: "` + lines(60, "x") + `"... is not a backend (want one of auto, xdp, ipvs)`},
		{"line breaks in a key", "interface: eth0\n\"a\\nb\": 1", `2: "a\nb": unknown key (want one of admin, allow, backend, bfd, bgp, deny, expire_nodest_conn, expire_quiescent_template, interface, interfaces, notify, outer_source, peers, pin_dir, runtime, services, sloppy_tcp, state_dir, stop_grace, sync, tables, timeouts, vrrp, xdp_mode)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse("lvx.yaml", []byte(c.data))
			if diff := cmp.Diff("lvx.yaml:"+c.want, fmt.Sprint(err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// laughs is the billion laughs attack.
func laughs(levels int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x]\n")
	for i := range levels {
		fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	return b.String() + "interface: eth0\n"
}

// A list of real servers that every service refers to.
func TestAliasesThatMultiply(t *testing.T) {
	var b strings.Builder
	b.WriteString("interface: eth0\nservices:\n- name: s0\n  listen: 192.0.2.1:1/tcp\n  reals: &all\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "  - address: 10.0.%d.%d\n", i>>8, i&255)
	}
	for i := range 1000 {
		fmt.Fprintf(&b, "- {name: s%d, listen: '192.0.2.1:%d/tcp', reals: *all}\n", i+1, i+2)
	}
	_, err := config.Parse("lvx.yaml", []byte(b.String()))
	if err == nil || !strings.HasSuffix(err.Error(), ": aliases that multiply to more than 1048576 values (want them written out, or fewer)") {
		t.Error(err)
	}
}

// More virtual routers than XDP has leases for would share them: one that is backup
// would silence the VIPs of one that is master.
func TestTooManyRouters(t *testing.T) {
	for n, want := range map[int]string{1023: "<nil>", 1024: "lvx.yaml:3: vrrp: 1024 virtual routers (want at most 1023)"} {
		var b strings.Builder
		b.WriteString("interface: eth0\nvrrp:\n")
		for i := range n {
			fmt.Fprintf(&b, "- {name: v%d, interface: eth%d, virtual_router_id: %d, addresses: [10.0.%d.%d/32]}\n", i, i/200, 1+i%200, i>>8, i&255)
		}
		if _, err := config.Parse("lvx.yaml", []byte(b.String())); fmt.Sprint(err) != want {
			t.Errorf("%d: %v, want %s", n, err, want)
		}
	}
}

func TestFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo.yaml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 100<<20); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                               "configuration " + dir + ": not a regular file (want a file, found mode drwxr-xr-x)",
		fifo:                              "configuration " + fifo + ": not a regular file (want a file, found mode prw-------)",
		large:                             large + ":1: file is too large (want at most 16 MiB)",
		"/dev/null":                       "configuration /dev/null: not a regular file (want a file, found mode Dcrw-rw-rw-)",
		filepath.Join(dir, "none.yaml"):   "configuration " + dir + "/none.yaml: no such file or directory",
		filepath.Join(dir, "a\nb\x1b[2J"): `configuration "` + dir + `/a\nb\x1b[2J": no such file or directory`,
	} {
		_, err := config.Load(path)
		if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", path, diff)
		}
	}
}

// A password must not get into an error, whatever else is wrong with it.
func TestPasswordIsNotShown(t *testing.T) {
	for _, value := range []string{"topsecret", `"topsecret"`, "[topsecret]", "{topsecret: 1}", "!topsecret x", "!!binary dG9wc2VjcmV0"} {
		_, err := config.Parse("lvx.yaml", []byte("interface: eth0\nvrrp:\n- name: VI_1\n  virtual_router_id: 1\n  addresses: 192.0.2.1\n  auth_pass: "+value+"\n"))
		if err == nil || !strings.HasPrefix(err.Error(), "lvx.yaml:6: vrrp[0].auth_pass: ") || strings.Contains(err.Error(), "secret") && !strings.HasPrefix(value, "!") {
			t.Errorf("auth_pass: %s: %v", value, err)
		}
	}
}
