package ipvs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cloudflare/ipvs"
)

// A ledger says what in the kernel is ours and what was there before, so
// that a successor after a crash still knows. It is written before the
// kernel is changed: it may name what does not exist, but never lacks what
// does.
type ledger struct {
	Services []owned           `json:"services"`
	Sysctls  map[string]string `json:"sysctls"`            // values to restore
	Timeouts *ipvs.Config      `json:"timeouts,omitempty"` // values to restore
	Marks    map[string]uint32 `json:"marks"`              // numbers of our choosing
}

// owned is one of our services and the lb.Service that it stands for.
type owned struct {
	Key  key    `json:"key"`
	Name string `json:"name"`
}

func (l ledger) owns(k key) bool {
	for _, o := range l.Services {
		if o.Key == k {
			return true
		}
	}
	return false
}

// add makes k ours.
func (l *ledger) add(k key, name string) {
	for i := range l.Services {
		if l.Services[i].Key == k {
			l.Services[i].Name = name
			return
		}
	}
	l.Services = append(l.Services, owned{Key: k, Name: name})
}

// ledgerFile is the ledger's place in the state directory.
func ledgerFile(dir string) string { return filepath.Join(dir, "ipvs.json") }

// Leftover reports whether an earlier backend on this state directory, which did
// not end as it should or was to be succeeded, has left things in the kernel.
func Leftover(dir string) bool {
	_, err := os.Stat(ledgerFile(dir))
	return err == nil
}

// readLedger reads the ledger; there is none before the first Apply.
func readLedger(dir string) (ledger, error) {
	l := ledger{Sysctls: map[string]string{}}
	b, err := os.ReadFile(ledgerFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("ledger: %w", err)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("ledger %s: %w (remove it if nothing of lvx is in ipvsadm -L -n)", ledgerFile(dir), err)
	}
	if l.Sysctls == nil {
		l.Sysctls = map[string]string{}
	}
	return l, nil
}

// write replaces the ledger as a whole.
func (l ledger) write(dir string) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	tmp := ledgerFile(dir) + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return os.Rename(tmp, ledgerFile(dir))
}

// removeLedger ends the ownership.
func removeLedger(dir string) error {
	if err := os.Remove(ledgerFile(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}
