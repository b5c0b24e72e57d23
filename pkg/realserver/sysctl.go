package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const lo = "lo"

// errNoInterface is returned for a setting whose interface does not exist.
var errNoInterface = errors.New("no such interface")

// key is one setting of one interface, or of "all".
type key struct {
	scope string // "all", "lo", "eth0"
	name  string // "arp_ignore"
}

// wanted are the settings of the ARP problem's usual cure: answer only for
// addresses of the interface that is asked, and ask only in the name of an
// address that fits the target's network. Of a tunnel's device, whose clients
// are answered by another one, it is a loose reverse-path filter: the larger
// of the device's and that of "all" counts, so that 2 beats a strict "all".
var wanted = map[string]string{"arp_ignore": "1", "arp_announce": "2", reversePath: "2"}

const reversePath = "rp_filter"

const confDir = "/proc/sys/net/ipv4/conf"

// keys lists both ARP settings of each scope.
func keys(scopes ...string) []key {
	var list []key
	for _, s := range scopes {
		list = append(list, key{s, "arp_ignore"}, key{s, "arp_announce"})
	}
	return list
}

// String gives the name as sysctl(8) writes it, with the dots of an
// interface's name as slashes: "net.ipv4.conf.eth0/7.arp_ignore".
func (k key) String() string {
	return "net.ipv4.conf." + strings.ReplaceAll(k.scope, ".", "/") + "." + k.name
}

// parseKey is the reverse of String. It accepts nothing that could name
// another file.
func parseKey(s string) (key, error) {
	rest, ok := strings.CutPrefix(s, "net.ipv4.conf.")
	scope, name, ok2 := strings.Cut(rest, ".")
	scope = strings.ReplaceAll(scope, "/", ".")
	if !ok || !ok2 || wanted[name] == "" || scope == "" || scope == "." || scope == ".." {
		return key{}, fmt.Errorf("setting %q in the state file: not one of lvx's", s)
	}
	return key{scope, name}, nil
}

func (k key) want() string { return wanted[k.name] }

func (k key) path() string { return filepath.Join(confDir, k.scope, k.name) }

func (k key) read() (string, error) {
	b, err := os.ReadFile(k.path())
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", k, errNoInterface)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", k, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (k key) write(value string) error {
	if err := os.WriteFile(k.path(), []byte(value), 0); err != nil {
		return fmt.Errorf("%s = %s: %w", k, value, err)
	}
	return nil
}
