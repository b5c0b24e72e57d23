package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// Keys and passwords of what lvx speaks with are no precondition of serving:
// where one is missing, open to others or no file at all, the director serves
// without those sessions, check and status say so, and the sessions begin once
// the file is there.
func TestFault02SecretsMissingAtTheStart(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	key, password := filepath.Join(d1.Dir(), "sync.key"), filepath.Join(d1.Dir(), "bgp.key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("ab", 32)), 0o644))
	must(t, unix.Mkfifo(password, 0o600))
	body := service("") + fmt.Sprintf(`sync: {peers: [172.25.0.11, 172.25.0.14], key_file: %s}
bgp: {asn: 65010, peers: [{address: 172.25.0.50, asn: 65000, password_file: %s}]}
`, key, password)
	file, err := r.Config("d1", body)
	must(t, err)
	says := func(what, text string, wanted ...string) {
		t.Helper()
		for _, w := range wanted {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not say %q:\n%s", what, w, text)
			}
		}
	}
	noKey, noPassword := "connections are not shared: key file: "+key+" has mode 0644", "no VIP is announced: peer 172.25.0.50: password file: "+password+" is not a regular file"
	out, err := d1.Run(t.Context(), lvx, "check", "-c", file)
	if err != nil {
		t.Errorf("check refuses what run does not: %v", err)
	}
	says("check", out, noKey, noPassword)
	must(t, r.Start(t.Context(), "d1"))
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("requests: %s", got)
	}
	out, err = r.LVX(t.Context(), "d1", "status")
	must(t, err)
	says("status", out, noKey, noPassword)

	must(t, os.Chmod(key, 0o600))
	must(t, os.Remove(password))
	must(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	eventually(t, func() error {
		out, err := r.LVX(t.Context(), "d1", "status")
		if err != nil || strings.Contains(out, "connections are not shared") || strings.Contains(out, "no VIP is announced") ||
			!strings.Contains(out, "peer 172.25.0.14") || !strings.Contains(out, "router 172.25.0.50") {
			return fmt.Errorf("the sessions have not begun: %v\n%s", err, out)
		}
		return nil
	})
	must(t, r.Leave("d1"))
	purge(t, r)
	nothingLeft(t, r, "d1")
}

// The same with an address that is not there yet when the daemon starts.
func TestFault01AddressOfSyncIsNotThereYet(t *testing.T) {
	r := newRig(t, testenv.Shape{Directors: 1})
	d1 := r.Cluster.Host("d1")
	key := filepath.Join(d1.Dir(), "sync.key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("ab", 32)), 0o600))
	run(t, d1, "ip", "link", "add", "veth7", "type", "veth", "peer", "name", "veth8")
	must(t, r.Direct(t.Context(), "d1", service("")+"sync: {interface: veth7, peers: [10.77.0.2, 10.77.0.1], key_file: "+key+"}\n"))
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("requests: %s", got)
	}
	status := func(want string) {
		t.Helper()
		eventually(t, func() error {
			if out, err := r.LVX(t.Context(), "d1", "status"); err != nil || !strings.Contains(out, want) {
				return fmt.Errorf("status does not say %q: %v\n%s", want, err, out)
			}
			return nil
		})
	}
	status("this host has no address of its family on the interface of sync")
	run(t, d1, "ip", "addr", "add", "10.77.0.1/24", "dev", "veth7")
	run(t, d1, "ip", "link", "set", "veth7", "up")
	status("peer 10.77.0.2")
}
