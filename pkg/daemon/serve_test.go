package daemon

import (
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Of several configurations that are to follow a daemon the last one does, also if
// it comes when the daemon ends already. A binary reads the file itself.
func TestLastConfigurationFollows(t *testing.T) {
	first, second, third := new(config.Config), new(config.Config), new(config.Config)
	note := new(warnings.Warning)
	d := &Daemon{next: make(chan Next, 1)}
	d.next <- Next{Config: first, fellBack: note}
	d.startAnew(second)
	d.follower = <-d.next
	if d.follower.Config != second || d.follower.fellBack != note {
		t.Errorf("of two that wait %+v follows", d.follower)
	}
	d.startAnew(third)
	d.takeLatest()
	if d.follower.Config != third || d.follower.fellBack != note {
		t.Errorf("%+v follows, and the last one came at the end", d.follower)
	}
	d.takeLatest()
	if d.follower.Config != third {
		t.Errorf("nothing new has come, and %+v follows", d.follower)
	}
	d.next <- Next{Binary: "/lvx"}
	d.startAnew(first)
	d.takeLatest()
	if d.follower.Binary != "/lvx" {
		t.Errorf("%+v follows, and not the binary", d.follower)
	}
	d.startAnew(first)
	d.takeLatest()
	if d.follower.Binary != "/lvx" {
		t.Errorf("%+v follows the binary", d.follower)
	}
}
