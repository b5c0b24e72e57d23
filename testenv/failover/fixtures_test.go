package failover

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/keepalived"
)

// fixtures are the configurations of pkg/keepalived, shaped as people write
// them, that have a virtual router.
const fixtures = "../../pkg/keepalived/testdata"

// adapt makes a fixture fit a host of the segment: its interface, its peer, and
// programs that are there. What is not about virtual routers goes.
var adapt = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`(?m)^(<<<<<<<|=======|>>>>>>>).*\n`), ""},
	{regexp.MustCompile(`\b(eth\d|ens\d+|@IFACE1@)|@IFACE1@`), "eth0"},
	{regexp.MustCompile(`track_interface \{[^}]*\}`), "track_interface { eth0 }"},
	{regexp.MustCompile(`unicast_peer \{[^}]*\}`), "unicast_peer { PEER }"},
	{regexp.MustCompile(`(unicast|mcast)_src_ip \S+`), "${1}_src_ip SELF"},
	{regexp.MustCompile(`(?m)^(\s*)(notify\w*) .*`), "${1}${2} /bin/true"},
	{regexp.MustCompile(`(?m)^(\s*script) .*`), "$1 /bin/true"},
	{regexp.MustCompile(`preempt_delay \d+`), "preempt_delay 0"},
	{regexp.MustCompile(`advert_int [1-9]\d*`), "advert_int 1"},
	{regexp.MustCompile(`(?m)^(\s*)priority \d+`), "${1}priority PRIORITY"},
}

// pairsOfFixtures are the fixtures that a pair is made of, each with an
// instance of its.
var pairsOfFixtures = map[string]string{
	"01-dr-wrr-persistent": "VI_1", "02-long-persistence": "VI_1", "04-http-get": "VI_1", "09-template": "vips",
	"10-apiserver": "VI_1", "11-conflict-marks": "VI_OUT", "14-empty-block": "VI_1", "16-every-keyword": "", "18-secrets": "",
	"22-sync-daemon": "",
}

// scriptBlock is a script that an instance may name: on one line, or on several.
var scriptBlock = regexp.MustCompile(`(?m)^vrrp_script [^\n{]*\{[^\n]*\}$|(?ms)^vrrp_script [^\n]*\{$.*?^\}`)

// instanceOf is the text of a vrrp_instance with the scripts that it names.
func instanceOf(t *testing.T, fixture, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, fixture+".conf"))
	must(t, err)
	text := string(b)
	for _, a := range adapt {
		text = a.from.ReplaceAllString(text, a.to)
	}
	if name == "" {
		name = `\S+`
	}
	instance := regexp.MustCompile(`(?ms)^vrrp_instance ` + name + ` *\{.*?^\}`).FindString(text)
	if instance == "" {
		t.Fatalf("%s has no vrrp_instance %s:\n%s", fixture, name, text)
	}
	if !strings.Contains(instance, "PRIORITY") {
		instance = strings.Replace(instance, "{\n", "{\n    priority PRIORITY\n", 1)
	}
	for _, block := range scriptBlock.FindAllString(text, -1) {
		instance = block + "\n" + instance
	}
	return instance + "\n"
}

// fixturePair is a pair whose hosts have one file, each with its own priority.
type fixturePair struct {
	*Segment
	t    *testing.T
	text string
	vips []netip.Addr
}

// conf writes the file for a host.
func (p *fixturePair) conf(host string, priority int) string {
	p.t.Helper()
	peer := map[string]string{"a": "b", "b": "a"}[host]
	text := strings.NewReplacer("SELF", Addr(host).String(), "PEER", Addr(peer).String(), "PRIORITY", fmt.Sprint(priority)).Replace(p.text)
	path := filepath.Join(p.Host(host).Dir(), fmt.Sprintf("keepalived-%d.conf", priority))
	must(p.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// alone waits until one host alone has every VIP.
func (p *fixturePair) alone(with string, daemons ...*Daemon) {
	p.t.Helper()
	without := map[string]string{"a": "b", "b": "a"}[with]
	must(p.t, Await(p.t.Context(), with+" alone has "+fmt.Sprint(p.vips), func() error {
		for _, v := range p.vips {
			if err := p.Alone(with, without, v); err != nil {
				return err
			}
		}
		return nil
	}, daemons...))
}

// contender is a program that a fixture is given to.
type contender struct {
	start func(t *testing.T, s *Segment, host, conf string) *Daemon
	// follows wants the program's instance to be a backup.
	follows func(p *fixturePair, host string, d *Daemon) error
}

var (
	byKeepalived = contender{startKeepalivedFrom, func(_ *fixturePair, _ string, d *Daemon) error {
		return says(d, "Entering BACKUP STATE")
	}}
	byLVX = contender{startImported, func(p *fixturePair, host string, _ *Daemon) error {
		out, err := LVX{Self: self}.Run(p.t.Context(), p.Host(host), "status", "--json")
		if err != nil {
			return err
		}
		var st director.Status
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return err
		}
		if len(st.VRRP) != 1 || st.VRRP[0].Role != "BACKUP" || len(st.VRRP[0].Peers) == 0 {
			return fmt.Errorf("no backup that has heard of a master: %+v", st.VRRP)
		}
		return nil
	}}
)

// start starts a program on a host and waits until it follows the other host's.
func (p *fixturePair) start(r contender, host string, priority int, other *Daemon) *Daemon {
	p.t.Helper()
	d := r.start(p.t, p.Segment, host, p.conf(host, priority))
	if other != nil {
		must(p.t, Await(p.t.Context(), host+" follows", func() error { return r.follows(p, host, d) }, d, other))
	}
	return d
}

// play lets one program with the better priority and another one be a pair of
// the fixture: the better one alone has every address, the other one takes over
// when it stops, and gives back when it returns, unless the file says nopreempt.
func (p *fixturePair) play(better, other contender) {
	res, err := keepalived.Import(osFiles{}, p.conf("a", 150), keepalived.Options{})
	must(p.t, err)
	conf := res.Config.VRRP[0]
	for _, v := range conf.Addresses {
		p.vips = append(p.vips, v.Addr())
	}
	a := p.start(better, "a", 150, nil)
	p.alone("a", a)
	b := p.start(other, "b", 100, a)
	p.alone("a", a, b)
	must(p.t, a.Stop())
	p.alone("b", b)
	if conf.NoPreempt {
		a = p.start(better, "a", 150, b)
		p.alone("b", a, b)
	} else {
		a = p.start(better, "a", 150, nil) // it need not be a backup for long
		p.alone("a", a, b)
	}
	must(p.t, b.Stop())
	p.alone("a", a)
	must(p.t, a.Stop())
}

// mirrored are the fixtures whose pair is played with lvx the better one, too:
// all with LVX_LOAD, else those that differ most.
func mirrored() []string {
	if os.Getenv("LVX_LOAD") != "" {
		return slices.Sorted(maps.Keys(pairsOfFixtures))
	}
	return []string{"09-template", "16-every-keyword"}
}

// TestPairsOfFixtures: keepalived and lvx, each with the same file, whose shape
// people use, are a pair.
func TestPairsOfFixtures(t *testing.T) {
	t.Parallel()
	if len(pairsOfFixtures) < 10 {
		t.Errorf("%d fixtures (want at least 10)", len(pairsOfFixtures))
	}
	play := func(fixture, kind string, better, other contender) {
		t.Run(fixture+kind, func(t *testing.T) {
			t.Parallel()
			p := &fixturePair{newSegment(t), t, instanceOf(t, fixture, pairsOfFixtures[fixture]), nil}
			p.play(better, other)
		})
	}
	for fixture := range pairsOfFixtures {
		play(fixture, "", byKeepalived, byLVX)
	}
	for _, fixture := range mirrored() {
		play(fixture, "/mirrored", byLVX, byKeepalived)
	}
}

// says wants a text in a daemon's log.
func says(d *Daemon, text string) error {
	if !strings.Contains(d.Output(), text) {
		return fmt.Errorf("no %q in its log", text)
	}
	return nil
}

// osFiles are files of this host.
type osFiles struct{}

func (osFiles) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }
func (osFiles) Read(name string) ([]byte, error)      { return os.ReadFile(name) }
