package failover

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// migration plays docs/migrate.md: lb1 is the segment's a, lb2 its b.
type migration struct {
	*Segment
	t       *testing.T
	running map[string]*Daemon // by "lb1 lvx"

}

var hostOf = map[string]string{"lb1": "a", "lb2": "b"}

const keepalivedOfPage = `global_defs {
    router_id %[1]s
}
vrrp_instance VI_1 {
    state %[3]s
    interface eth0
    virtual_router_id 51
    priority %[2]d
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass s3cr7t12
    }
    virtual_ipaddress {
        10.99.0.100/16 dev eth0
    }
}
virtual_server 10.99.0.100 80 {
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.99.0.21 80 {
        weight 1
        TCP_CHECK { connect_timeout 1 }
    }
    real_server 10.99.0.22 80 {
        weight 2
        TCP_CHECK { connect_timeout 1 }
    }
}
`

// prompt is a line of the page that is a command.
var prompt = regexp.MustCompile(`(?m)^(lb[12])# (.*)$`)

// Every command of the page works, in its order, and after each step the VIP
// is where the page says.
func TestMigrationPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/migrate.md")
	must(t, err)
	m := &migration{Segment: newSegment(t), t: t, running: map[string]*Daemon{}}
	for lb, conf := range map[string]string{
		"lb1": fmt.Sprintf(keepalivedOfPage, "lb1", 150, "MASTER"), "lb2": fmt.Sprintf(keepalivedOfPage, "lb2", 100, "BACKUP"),
	} {
		for _, dir := range []string{"keepalived", "lvx"} {
			must(t, os.MkdirAll(filepath.Join(m.etc(lb), dir), 0o755))
		}
		must(t, os.WriteFile(filepath.Join(m.etc(lb), "keepalived", "keepalived.conf"), []byte(conf), 0o600))
		m.startKeepalived(lb)
	}
	m.serves("lb1", "lb2")
	text, rest, isThere := strings.Cut(string(page), "## Without losing a connection") // needs kernel IPVS: testenv/vm/handover
	_, rest, hasNext := strings.Cut(rest, "\n## ")
	if !isThere || !hasNext {
		t.Fatal("the page has other parts")
	}
	sections := strings.Split(text+rest, "\n**")
	if len(sections) < 5 {
		t.Fatalf("the page has %d steps", len(sections))
	}
	n := 0
	for _, section := range sections {
		for _, c := range prompt.FindAllStringSubmatch(section, -1) {
			n++
			m.do(c[1], c[2])
		}
		switch {
		case strings.HasPrefix(section, "1."), strings.HasPrefix(section, "2."):
			m.serves("lb1", "lb2")
		case strings.HasPrefix(section, "3."):
			m.serves("lb2", "lb1")
		}
	}
	if n < 20 {
		t.Errorf("%d commands were run (want all of the page, 20 at least)", n)
	}
}

func (m *migration) etc(lb string) string {
	return filepath.Join(m.Host(hostOf[lb]).Dir(), "etc")
}

// serves waits until the one has the VIP and the other has not.
func (m *migration) serves(with, without string) {
	m.t.Helper()
	must(m.t, Await(m.t.Context(), with+" has the VIP", func() error { return m.Alone(hostOf[with], hostOf[without], VIP) }))
}

// do runs one command of the page.
func (m *migration) do(lb, command string) {
	m.t.Helper()
	m.t.Logf("%s# %s", lb, command)
	words := strings.Fields(command)
	switch {
	case words[0] == "systemctl":
		m.systemctl(lb, words[1], words[2])
		switch lb + " " + words[1] + " " + words[2] {
		case "lb1 start keepalived", "lb1 start lvx":
			m.serves("lb1", "lb2")
		case "lb1 stop keepalived":
			m.serves("lb2", "lb1")
		}
		return
	case words[0] == "ipvsadm-save": // this kernel has no IPVS
		rules := "-A -t 10.99.0.100:80 -s rr\n-a -t 10.99.0.100:80 -r 10.99.0.21:80 -g -w 1\n-A -f 7 -s rr -p 60\n-a -f 7 -r 10.99.0.22:0 -g -w 1\n"
		must(m.t, os.WriteFile(filepath.Join(m.etc(lb), "ipvsadm.rules"), []byte(rules), 0o600))
		return
	case words[0] == "iptables-save":
		m.shell(lb, "iptables -t mangle -A PREROUTING -d 10.99.0.101/32 -p tcp -m multiport --dports 80,443 -j MARK --set-mark 7")
	}
	out := m.shell(lb, command)
	switch {
	case strings.Contains(command, "lvx import") && strings.Contains(command, "-o "):
		m.ownPlaces(lb)
	case command == "lvx list -n" && !strings.Contains(out, "10.99.0.100:80"):
		m.t.Errorf("the service is not listed:\n%s", out)
	case command == "lvx status" && !strings.Contains(out, "10.99.0.21"):
		m.t.Errorf("the status names no real server:\n%s", out)
	}
}

// shell runs a command line in the host's namespace, with /etc of its own and
// the lvx under test.
func (m *migration) shell(lb, line string) string {
	m.t.Helper()
	h := m.Host(hostOf[lb])
	line = strings.ReplaceAll(line, "/etc/", m.etc(lb)+"/")
	ctx, cancel := context.WithTimeout(m.t.Context(), Patience)
	defer cancel()
	out, err := h.Run(ctx, "sh", "-c", fmt.Sprintf("PATH=%s:$PATH; LVX_SOCKET=%s; export PATH LVX_SOCKET; %s", filepath.Dir(self), socket(h), line))
	if err != nil {
		m.t.Fatalf("%s# %s: %v\n%s", lb, line, err, out)
	}
	return out
}

// ownPlaces gives a director of a test its own directories and socket.
func (m *migration) ownPlaces(lb string) {
	m.t.Helper()
	h := m.Host(hostOf[lb])
	f, err := os.OpenFile(filepath.Join(m.etc(lb), "lvx", "lvx.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	must(m.t, err)
	_, err = fmt.Fprintf(f, "\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\n", h.PinDir(), h.Dir(), socket(h))
	must(m.t, err)
	must(m.t, f.Close())
}

// systemctl does what the units do.
func (m *migration) systemctl(lb, verb, unit string) {
	m.t.Helper()
	key := lb + " " + unit
	if verb == "stop" || verb == "restart" {
		d := m.running[key]
		if d == nil {
			m.t.Fatalf("%s: %s does not run", lb, unit)
		}
		must(m.t, d.Stop())
		delete(m.running, key)
		if unit == "lvx" && verb == "stop" { // ExecStopPost of the unit
			m.shell(lb, "lvx purge -c /etc/lvx/lvx.yaml")
		}
	}
	if verb == "stop" {
		return
	}
	if unit == "keepalived" {
		m.startKeepalived(lb)
		return
	}
	h := m.Host(hostOf[lb])
	p, err := h.Start(self, "run", "-c", filepath.Join(m.etc(lb), "lvx", "lvx.yaml"))
	must(m.t, err)
	m.running[key] = &Daemon{Process: p}
	ctx, cancel := context.WithTimeout(m.t.Context(), Patience)
	defer cancel()
	must(m.t, p.WaitOutput(ctx, "serving"))
}

func (m *migration) startKeepalived(lb string) {
	m.t.Helper()
	d := startKeepalivedFrom(m.t, m.Segment, hostOf[lb], filepath.Join(m.etc(lb), "keepalived", "keepalived.conf"))
	m.running[lb+" keepalived"] = d
	ctx, cancel := context.WithTimeout(m.t.Context(), Patience)
	defer cancel()
	must(m.t, d.WaitOutput(ctx, "BACKUP STATE"))
}
