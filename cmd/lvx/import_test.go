package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const pairConf = `
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    authentication { auth_type PASS
        auth_pass hunter22 }
    virtual_ipaddress { 192.0.2.100/24 }
}
virtual_server 192.0.2.100 80 {
    delay_loop 6
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 192.0.2.11 80 { TCP_CHECK { connect_timeout 3 } }
}
`

// runOn runs `lvx ARGS FILE` on a file with the given text.
func runOn(t *testing.T, text string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keepalived.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code = run(append(args, path), &out, &errs)
	return code, out.String(), errs.String()
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func TestImport(t *testing.T) {
	code, out, errs := runOn(t, pairConf, "import")
	if code != exitDone || !strings.Contains(out, `listen: ["192.0.2.100:80/tcp"]`) {
		t.Errorf("exit %d, output:\n%s", code, out)
	}
	if got, want := lastLine(errs), "total: 16 mapped, 0 harmless, 0 changed, 0 lost"; got != want {
		t.Errorf("last line %q (want %q)", got, want)
	}
	if strings.Contains(errs, "hunter22") || !strings.Contains(errs, "use -o FILE") {
		t.Errorf("stderr:\n%s", errs)
	}
}

// What lvx import makes of every fixture, as a file, is one that lvx check, a
// process of its own, accepts: all that it may say against it is of this host.
func TestCheckTakesWhatImportWrites(t *testing.T) {
	fixtures, err := filepath.Glob("../../pkg/keepalived/testdata/*.conf")
	if err != nil || len(fixtures) < 23 {
		t.Fatalf("%d fixtures: %v", len(fixtures), err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "lvx") // TestMain knows it by this name
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	for _, fixture := range fixtures {
		t.Run(filepath.Base(fixture), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "lvx.yaml")
			if text, err := exec.Command(link, "import", "--lenient", fixture, "-o", out).CombinedOutput(); err != nil {
				t.Fatalf("lvx import: %v\n%s", err, text)
			}
			text, _ := exec.Command(link, "check", "-c", out).CombinedOutput() // this host may lack its interfaces
			if !strings.HasPrefix(string(text), "configuration  "+out+": ok, ") {
				t.Errorf("lvx check:\n%s", text)
			}
		})
	}
}

func TestImportOfWhatIsLost(t *testing.T) {
	lost := pairConf + "virtual_server fwmark 9 {\n  real_server 192.0.2.11 { }\n}\n"
	code, _, errs := runOn(t, lost, "import", "--quiet")
	if code != exitLost || !strings.Contains(errs, "(lost)") || strings.Contains(errs, "(mapped)") {
		t.Errorf("exit %d (want %d), stderr:\n%s", code, exitLost, errs)
	}
	if code, _, _ := runOn(t, lost, "import", "--lenient"); code != exitDone {
		t.Errorf("with --lenient: exit %d", code)
	}
}

// What is written with -o is for its owner alone, also where a file was that
// everybody could read.
func TestImportWritesForItsOwner(t *testing.T) {
	out := filepath.Join(t.TempDir(), "lvx.yaml")
	if err := os.WriteFile(out, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, errs := runOn(t, pairConf, "import", "-o", out)
	if code != exitDone || stdout != "" || strings.Contains(errs, "use -o FILE") {
		t.Errorf("exit %d, stdout %q, stderr:\n%s", code, stdout, errs)
	}
	info, err := os.Stat(out)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v (want mode 0600)", info.Mode(), err)
	}
	text, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(text), `auth_pass: "hunter22"`) {
		t.Errorf("%v in:\n%s", err, text)
	}
}

func TestImportOfRules(t *testing.T) {
	marks := filepath.Join(t.TempDir(), "marks")
	text := "*mangle\n-A PREROUTING -d 192.0.2.100/32 -p tcp -m multiport --dports 80,443 -j MARK --set-mark 10\n" +
		"-A PREROUTING -i eth1 -d 192.0.2.101/32 -j MARK --set-mark 11\nCOMMIT\n"
	if err := os.WriteFile(marks, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rules := "-A -f 10 -s rr -p 60\n-a -f 10 -r 192.0.2.11:0 -g\n-A -t 192.0.2.100:http -s rr\n"
	code, out, errs := runOn(t, rules, "import", "--iptables", marks, "--ipvsadm")
	if code != exitLost || !strings.Contains(errs, "line 3: mark 11") || lastLine(errs) != "total: 2 mapped, 0 harmless, 0 changed, 1 lost" {
		t.Errorf("exit %d, stderr:\n%s", code, errs)
	}
	if !strings.Contains(out, `listen: ["192.0.2.100:80/tcp", "192.0.2.100:443/tcp"]`) || !strings.Contains(out, "mark: 10") {
		t.Errorf("output:\n%s", out)
	}
}

func TestImportRefuses(t *testing.T) {
	for _, args := range [][]string{{"import"}, {"import", "--via", "x", "f"}, {"import", "--backend", "x", "f"}, {"import", "--ipvsadm", "rules", "f"}, {"import", "a", "b"}} {
		if code := run(args, new(bytes.Buffer), new(bytes.Buffer)); code != exitUsage {
			t.Errorf("%v: exit %d (want %d)", args, code, exitUsage)
		}
	}
	var errs bytes.Buffer
	if code := run([]string{"import", "/absent"}, new(bytes.Buffer), &errs); code != exitFailed || !strings.Contains(errs.String(), "/absent") {
		t.Errorf("exit %d, %s", code, errs.String())
	}
}

// check and run read a keepalived.conf as import does, and warn of what is
// not as it was.
func TestReaderReadsKeepalived(t *testing.T) {
	path := filepath.Join(t.TempDir(), "any.name")
	if err := os.WriteFile(path, []byte(pairConf+"virtual_server fwmark 9 {\n  real_server 192.0.2.11 { }\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, err := newReader().Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Services) != 1 || len(cfg.VRRP) != 1 {
		t.Errorf("%d services, %d VRRP instances (want 1 of each)", len(cfg.Services), len(cfg.VRRP))
	}
	if text := strings.Join(cfg.Warnings, "\n"); !strings.Contains(text, "(lost)") || !strings.Contains(text, "chmod") || strings.Contains(text, "hunter22") {
		t.Errorf("warnings:\n%s", text)
	}
}

// A pipe is refused, also if somebody has it open for writing.
func TestImportRefusesPipes(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "keepalived.conf")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if _, err := (osFiles{}).Read(pipe); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
}
