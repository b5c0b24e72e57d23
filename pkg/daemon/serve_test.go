package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/warnings"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/tb"
)

// Of several configurations that are to follow a daemon the last one does, also if
// it comes when the daemon ends already. A binary reads the file itself.
func TestLastConfigurationFollows(t *testing.T) {
	first, second, third := new(config.Config), new(config.Config), new(config.Config)
	note := new(warnings.Warning)
	d := &Daemon{next: make(chan Next, 1)}
	d.next <- Next{Config: first, fellBack: note}
	d.startAnew(director.File{Config: second})
	d.follower = <-d.next
	if d.follower.Config != second || d.follower.fellBack != note {
		t.Errorf("of two that wait %+v follows", d.follower)
	}
	d.startAnew(director.File{Config: third})
	d.takeLatest()
	if d.follower.Config != third || d.follower.fellBack != note {
		t.Errorf("%+v follows, and the last one came at the end", d.follower)
	}
	d.takeLatest()
	if d.follower.Config != third {
		t.Errorf("nothing new has come, and %+v follows", d.follower)
	}
	d.next <- Next{Binary: "/lvx"}
	d.startAnew(director.File{Config: first})
	d.takeLatest()
	if d.follower.Binary != "/lvx" {
		t.Errorf("%+v follows, and not the binary", d.follower)
	}
	d.startAnew(director.File{Config: first})
	d.takeLatest()
	if d.follower.Binary != "/lvx" {
		t.Errorf("%+v follows the binary", d.follower)
	}
}

// A stop that comes while a daemon starts anew in place is one: with stop_grace 0 nothing
// stays.
func TestStopWhileItStartsAnew(t *testing.T) {
	cfg := new(config.Config)
	d := &Daemon{director: director.New(director.Options{Config: cfg}), follower: Next{Config: cfg}}
	ctx, stop := context.WithCancel(t.Context())
	if grace := d.graceFor(ctx); grace != config.DefaultStopGrace {
		t.Errorf("serves on for %s", grace)
	}
	stop()
	if grace := d.graceFor(ctx); grace != 0 {
		t.Errorf("serves on for %s after the stop", grace)
	}
}

// A daemon that starts anew in place goes on with its maps and addresses, however
// little a stop would leave.
func TestStartAnewIsNoStop(t *testing.T) {
	w := newDirector(t, tb.Standard(t, testenv.Shape{Directors: 1, Reals: 1}).Host("d1"))
	text, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	begin := "stop_grace: 0s\n" + string(text)
	write(begin)
	w.start(t)
	defer w.stop(t)
	flows := func() string { return tb.Run(t, w.Host, "ls", "-i", filepath.Join(w.PinDir(), "flows")) }
	before := flows()
	write(strings.Replace(begin, "/bin/sh ", "/bin/sh -e ", 1))
	if r, err := admin.NewClient(filepath.Join(w.Dir(), "lvx.sock")).Reload(t.Context()); err != nil || !r.Renews {
		t.Fatalf("%+v, %v", r, err)
	}
	tb.Eventually(t, time.Minute, func() error {
		if own, vrrp := w.hasVIPs(t); !own || !vrrp {
			return testenv.Final(fmt.Errorf("VIPs: own %v, VRRP's %v\n%s", own, vrrp, w.p.Output()))
		}
		if n := strings.Count(w.p.Output(), "msg=serving"); n < 2 {
			return fmt.Errorf("it served %d times\n%s", n, w.p.Output())
		}
		return nil
	})
	if after := flows(); after != before {
		t.Errorf("the table of connections is another one: %s, before %s", after, before)
	}
}
