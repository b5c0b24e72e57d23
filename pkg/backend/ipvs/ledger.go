package ipvs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cloudflare/ipvs"

	"github.com/lvx-lb/lvx/internal/jsonfile"
)

// A ledger says what in the kernel is ours and what was there before, so
// that a successor after a crash still knows. It is handed to the disk before
// the kernel is changed, and nothing waits for the disk.
type ledger struct {
	Boot     string            `json:"boot,omitempty"` // the kernel's boot_id: services and sysctls end with their kernel
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

// Owned lists the services that are in the kernel for lvx, those that an earlier
// backend on the same state directory left included.
func (b *Backend) Owned() (names []string) {
	for _, o := range b.ledger.Services {
		names = append(names, o.Name)
	}
	return names
}

// ledgerFile is the ledger's place in the state directory.
func ledgerFile(dir string) string { return filepath.Join(dir, "ipvs.json") }

// Leftover reports whether an earlier backend on this state directory, which did
// not end as it should or was to be succeeded, has left things in the kernel.
func Leftover(dir string) bool {
	_, err := os.Stat(ledgerFile(dir))
	return err == nil
}

// readLedger reads the ledger; there is none before the first Apply. One that
// is broken is moved aside: the services of the state are taken over as they
// are found in the kernel, others are left to whoever looks at the warning.
func readLedger(dir, boot string, report func(error)) ledger {
	l, err := jsonfile.Within(ledgerGrace, func() (l ledger, err error) {
		err = jsonfile.Read(ledgerFile(dir), &l)
		return l, err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		report(fmt.Errorf("what an earlier lvx left in the kernel's IPVS is not known: %w (see ipvsadm -L -n)", err))
		l = ledger{}
	}
	if l.Boot != "" && boot != "" && l.Boot != boot {
		l = ledger{Marks: l.Marks}
	}
	l.Boot = boot
	if l.Sysctls == nil {
		l.Sysctls = map[string]string{}
	}
	return l
}

// ledgerGrace is how long a start and Close wait for the disk.
const ledgerGrace = time.Second

// bookkeeper has the ledger written whenever it has changed, by a goroutine of
// its own: a change of the kernel does not wait for a disk.
type bookkeeper struct {
	keeper *jsonfile.Keeper
	last   []byte // what was put last
	stop   context.CancelFunc
	done   chan struct{}
}

func newBookkeeper(dir string, report func(error)) *bookkeeper {
	ctx, stop := context.WithCancel(context.Background())
	k := &bookkeeper{keeper: jsonfile.NewKeeper(ledgerFile(dir), 0o600, report), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(k.done)
		_ = k.keeper.Run(ctx, ledgerGrace) // it returns nil
	}()
	return k
}

func (k *bookkeeper) put(l ledger) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if bytes.Equal(b, k.last) {
		return nil
	}
	k.last = b
	return k.keeper.Put(l)
}

// close writes what is left, if the disk takes it.
func (k *bookkeeper) close() {
	k.stop()
	<-k.done
}
