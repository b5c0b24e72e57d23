//go:build ipvsvm

package handover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
	"github.com/lvx-lb/lvx/testenv/tb"
)

var migrationVIP = netip.MustParseAddr("10.99.0.100")

const keepalivedConf = `global_defs {
    router_id %[1]s
    lvs_sync_daemon eth0 VI_1 id 51
}
vrrp_instance VI_1 {
    state %[3]s
    interface eth0
    virtual_router_id 51
    priority %[2]d
    advert_int 1
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
    }
    real_server 10.99.0.22 80 {
        weight 2
    }
}
`

// migration plays docs/migrate.md on lb1 and lb2.
type migration struct {
	*testing.T
	hosts   *testenv.Cluster
	running map[string]*testenv.Process // by "lb1 lvx"
	load    *load
}

// typed is a line of the page that is a command, and overSSH a command of it that
// the other director runs.
var (
	typed   = regexp.MustCompile(`(?m)^(lb[12])# (.*)$`)
	overSSH = regexp.MustCompile(`ssh (lb[12]) cat (\S+)`)
)

// A pair of keepalived and kernel IPVS becomes one of lvx under load, one director
// at a time, with every way back: no connection breaks.
func TestMigrationWithoutLoss(t *testing.T) {
	m := newMigration(t)
	page, err := os.ReadFile("/t/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, isThere := strings.Cut(string(page), "## Without losing a connection")
	part, _, hasNext := strings.Cut(part, "\n## ")
	sections := strings.Split(part, "\n**")
	if !isThere || !hasNext || len(sections) != 5 {
		t.Fatalf("the page has other steps: %d", len(sections)-1)
	}
	master := []string{"lb1", "lb1", "lb1", "lb2", "lb2"} // behind each of them
	for i, section := range sections {
		for _, c := range typed.FindAllStringSubmatch(section, -1) {
			m.do(c[1], c[2])
		}
		m.awaitMaster(master[i])
		m.load.check(fmt.Sprintf("step %d", i))
	}
	// What is left of the pair is one of lvx: the other one serves as well.
	m.do("lb2", "systemctl stop lvx")
	m.awaitMaster("lb1")
	m.load.check("the last handover")
	m.load.stop()
}

func newMigration(t *testing.T) *migration {
	nic := func(addr string) []testenv.NIC {
		return []testenv.NIC{{Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}, XDPPeer: true, FullChecksum: true}}
	}
	m := &migration{T: t, running: map[string]*testenv.Process{}, hosts: tb.New(t, testenv.Options{Hosts: []testenv.HostSpec{
		{Name: "client", NICs: nic("10.99.0.10/16")},
		{Name: "lb1", NICs: nic("10.99.0.1/16")},
		{Name: "lb2", NICs: nic("10.99.0.2/16")},
		{Name: "r1", NICs: nic("10.99.0.21/16")},
		{Name: "r2", NICs: nic("10.99.0.22/16")},
	}})}
	for _, name := range []string{"r1", "r2"} {
		h := m.hosts.Host(name)
		tb.Run(t, h, lvxBinary, "real", "up", "--vip", migrationVIP.String(), "--interface", "eth0", "--state", filepath.Join(h.Dir(), "real.json"))
		_, err := h.ServeWeb()
		m.must(err)
	}
	for lb, conf := range map[string]string{
		"lb1": fmt.Sprintf(keepalivedConf, "lb1", 150, "MASTER"), "lb2": fmt.Sprintf(keepalivedConf, "lb2", 100, "BACKUP"),
	} {
		for _, dir := range []string{"keepalived", "lvx"} {
			m.must(os.MkdirAll(filepath.Join(m.etc(lb), dir), 0o755))
		}
		m.must(os.WriteFile(filepath.Join(m.etc(lb), "keepalived", "keepalived.conf"), []byte(conf), 0o600))
		m.startKeepalived(lb)
	}
	m.awaitMaster("lb1")
	m.load = m.startLoad()
	return m
}

func (m *migration) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *migration) etc(lb string) string { return filepath.Join(m.hosts.Host(lb).Dir(), "etc") }

func (m *migration) socket(lb string) string {
	return filepath.Join(m.hosts.Host(lb).Dir(), "lvx.sock")
}

// awaitMaster waits until one director has the VIP and the other has not.
func (m *migration) awaitMaster(want string) {
	m.Helper()
	tb.Eventually(m, patience, func() error {
		for _, lb := range []string{"lb1", "lb2"} {
			has, err := m.hasVIP(lb)
			if err != nil {
				return err
			}
			if has != (lb == want) {
				return fmt.Errorf("%s has the VIP: %t, and %s is to be master\n%s", lb, has, want, m.outputs())
			}
		}
		return nil
	})
}

func (m *migration) outputs() string {
	var b strings.Builder
	for name, p := range m.running {
		out := p.Output()
		fmt.Fprintf(&b, "\n%s:\n%s", name, out[max(0, len(out)-2000):])
	}
	return b.String()
}

func (m *migration) hasVIP(lb string) (bool, error) {
	h := m.hosts.Host(lb)
	link, err := h.Netlink.LinkByName("eth0")
	if err != nil {
		return false, err
	}
	addrs, err := h.Netlink.AddrList(link, netlink.FAMILY_V4)
	for _, a := range addrs {
		if ip, _ := netip.AddrFromSlice(a.IP.To4()); ip == migrationVIP {
			return true, err
		}
	}
	return false, err
}

// do runs one command of the page.
func (m *migration) do(lb, command string) {
	m.Helper()
	m.Logf("%s# %s", lb, command)
	if words := strings.Fields(command); words[0] == "systemctl" {
		m.systemctl(lb, words[1], words[2])
		return
	}
	for _, remote := range overSSH.FindAllStringSubmatch(command, -1) {
		file := filepath.Join(m.hosts.Host(lb).Dir(), "over-ssh")
		m.must(os.WriteFile(file, []byte(m.shell(remote[1], "cat "+remote[2])), 0o600))
		command = strings.Replace(command, remote[0], "cat "+file, 1)
	}
	out := m.shell(lb, command)
	if strings.Contains(command, "lvx import") {
		m.ownPlaces(lb)
	}
	if strings.HasPrefix(command, "lvx") || strings.Contains(command, "| lvx") {
		m.Log(out)
	}
}

// shell runs a command line on a director, with /etc of its own.
func (m *migration) shell(lb, line string) string {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), patience)
	defer cancel()
	line = strings.ReplaceAll(line, "/etc/", m.etc(lb)+"/")
	out, err := m.hosts.Host(lb).Run(ctx, "sh", "-c", fmt.Sprintf("PATH=/t:$PATH LVX_SOCKET=%s; export PATH LVX_SOCKET; %s", m.socket(lb), line))
	if err != nil {
		m.Fatalf("%s# %s: %v\n%s%s", lb, line, err, out, m.outputs())
	}
	return out
}

// ownPlaces gives a director of a test its own directories and socket.
func (m *migration) ownPlaces(lb string) {
	m.Helper()
	h := m.hosts.Host(lb)
	f, err := os.OpenFile(filepath.Join(m.etc(lb), "lvx", "lvx.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	m.must(err)
	_, err = fmt.Fprintf(f, "\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\ntables: {flows: 65536}\n", h.PinDir(), h.Dir(), m.socket(lb))
	m.must(err)
	m.must(f.Close())
}

// systemctl does what the units do.
func (m *migration) systemctl(lb, verb, unit string) {
	m.Helper()
	key := lb + " " + unit
	switch {
	case verb == "stop" && m.running[key] == nil:
		m.Fatalf("%s does not run", key)
	case verb == "stop":
		if unit == "lvx" && m.running["lb1 keepalived"] != nil {
			defer m.load.pause()()
		}
		m.must(m.running[key].Stop())
		delete(m.running, key)
		if unit == "lvx" { // ExecStopPost of the unit
			m.shell(lb, "lvx purge -c /etc/lvx/lvx.yaml")
		}
	case unit == "keepalived":
		m.startKeepalived(lb)
	default:
		p := tb.Start(m, m.hosts.Host(lb), lvxBinary, "run", "-c", filepath.Join(m.etc(lb), "lvx", "lvx.yaml"))
		m.running[key] = p
		m.waitOutput(p, "msg=serving")
	}
}

func (m *migration) waitOutput(p *testenv.Process, text string) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), patience)
	defer cancel()
	if err := p.WaitOutput(ctx, text); err != nil {
		m.Fatalf("%v\n%s", err, p.Output())
	}
}

func (m *migration) startKeepalived(lb string) {
	m.Helper()
	h := m.hosts.Host(lb)
	argv := []string{"keepalived", "-n", "-l", "-D", "-f", filepath.Join(m.etc(lb), "keepalived", "keepalived.conf")}
	for flag, name := range map[string]string{"-p": "p", "-r": "r", "-c": "c"} {
		file := filepath.Join(h.Dir(), "keepalived-"+name+".pid")
		_ = os.Remove(file)
		argv = append(argv, flag, file)
	}
	p := tb.Start(m, h, argv...)
	m.running[lb+" keepalived"] = p
	m.waitOutput(p, "BACKUP STATE")
}

// load is connections through the VIP: some that stay, and others that come and
// go. Each asks again and again.
type load struct {
	m      *migration
	cancel context.CancelFunc
	wg     sync.WaitGroup

	opening sync.RWMutex // held by who opens a connection, until it has had its first answer

	mu     sync.Mutex
	opened int
	asked  int
	broken []string
}

// shareOf is how much of the full load there is: with LVX_LOAD=1 100 connections
// that stay, and 20 new ones a second; else a fifth.
func shareOf(full int) int {
	part, err := strconv.ParseFloat(os.Getenv("LVX_LOAD"), 64)
	if err != nil {
		part = 0.2
	}
	return max(1, int(part*float64(full)))
}

func (m *migration) startLoad() *load {
	ctx, cancel := context.WithCancel(m.Context())
	l := &load{m: m, cancel: cancel}
	for range shareOf(100) {
		l.wg.Go(func() { l.use(ctx, time.Hour) })
	}
	l.wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(shareOf(20)))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.wg.Go(func() { l.use(ctx, 5*time.Second) })
			case <-ctx.Done():
				return
			}
		}
	})
	tb.Eventually(m, patience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.opened < shareOf(100)+shareOf(20) {
			return fmt.Errorf("%d connections are open: %v", l.opened, l.broken)
		}
		return nil
	})
	return l
}

// pause keeps connections from being opened until goOn is called: kernel IPVS
// acknowledges nothing that it is told, and stops listening as it takes over.
func (l *load) pause() (goOn func()) {
	l.opening.Lock()
	return l.opening.Unlock
}

// use opens a connection and asks on it every two seconds for as long as it lives.
func (l *load) use(ctx context.Context, life time.Duration) {
	conn, who := l.open(ctx)
	if conn == nil {
		return
	}
	defer conn.Close()
	for end := time.Now().Add(life); who != "" && time.Now().Before(end); {
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return
		}
		who = l.ask(ctx, conn, who)
	}
}

// open opens a connection and asks on it once.
func (l *load) open(ctx context.Context) (net.Conn, string) {
	l.opening.RLock()
	defer l.opening.RUnlock()
	conn, err := l.m.hosts.Host("client").Dial(ctx, "tcp", netip.AddrPortFrom(migrationVIP, 80).String())
	if ctx.Err() != nil {
		return nil, ""
	}
	if err != nil {
		l.note("no connection: "+rig.Brief(err), false)
		return nil, ""
	}
	return conn, l.ask(ctx, conn, "")
}

// ask asks who answers: "" if it is not who did before.
func (l *load) ask(ctx context.Context, conn net.Conn, before string) string {
	who, err := rig.Ask(conn)
	switch {
	case ctx.Err() != nil:
		return ""
	case err != nil:
		l.note(fmt.Sprintf("%s at %s (with %q)", rig.Brief(err), time.Now().Format("05.000"), before), before == "")
		return ""
	case before != "" && who != before:
		l.note(fmt.Sprintf("was with %s, then with %s", before, who), false)
		return ""
	}
	l.note("", before == "")
	return who
}

func (l *load) note(wrong string, isFirst bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked++; isFirst {
		l.opened++
	}
	if wrong != "" {
		l.broken = append(l.broken, wrong)
	}
}

// check waits until every connection that lives has asked, and fails if one broke.
func (l *load) check(what string) {
	l.m.Helper()
	l.mu.Lock()
	until := l.asked + 2*shareOf(100) + 20*shareOf(20)
	l.mu.Unlock()
	tb.Eventually(l.m, patience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.asked < until && len(l.broken) == 0 {
			return fmt.Errorf("%d questions of %d", l.asked, until)
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m.Logf("%s: %d connections so far, %d questions, %d broken", what, l.opened, l.asked, len(l.broken))
	if len(l.broken) > 0 {
		l.m.Errorf("%s: broken: %v%s", what, l.broken, l.m.outputs())
		l.broken = nil
	}
}

func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
}
