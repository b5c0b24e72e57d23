package failover

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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

// TestPairsOfFixtures: keepalived and lvx, each with the same file, whose shape
// people use, are a pair: the better one alone has every address, the other one
// takes over when it stops, and gives back when it returns, unless the file
// says nopreempt.
func TestPairsOfFixtures(t *testing.T) {
	t.Parallel()
	if len(pairsOfFixtures) < 10 {
		t.Errorf("%d fixtures (want at least 10)", len(pairsOfFixtures))
	}
	for fixture, name := range pairsOfFixtures {
		t.Run(fixture, func(t *testing.T) {
			t.Parallel()
			p := &fixturePair{newSegment(t), t, instanceOf(t, fixture, name), nil}
			res, err := keepalived.Import(osFiles{}, p.conf("a", 150), keepalived.Options{})
			must(t, err)
			for _, v := range res.Config.VRRP[0].Addresses {
				p.vips = append(p.vips, v.Addr())
			}
			k := startKeepalivedFrom(t, p.Segment, "a", p.conf("a", 150))
			p.alone("a", k)
			l := startImported(t, p.Segment, "b", p.conf("b", 100))
			p.alone("a", k, l)
			must(t, k.Stop())
			p.alone("b", l)
			k = startKeepalivedFrom(t, p.Segment, "a", p.conf("a", 150))
			if res.Config.VRRP[0].NoPreempt {
				must(t, Await(t.Context(), "keepalived is backup", func() error { return says(k, "Entering BACKUP STATE") }, k, l))
				p.alone("b", k, l)
			} else {
				p.alone("a", k, l)
			}
			must(t, l.Stop())
			p.alone("a", k)
			must(t, k.Stop())
		})
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
