package notify

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/lvx-lb/lvx/pkg/guard"
)

// hook runs a program of the operator's, as the daemon's user.
type hook struct{ argv []string }

func (h *hook) String() string { return "exec " + guard.Text(h.argv[0]) }

func (h *hook) patience() (time.Duration, int) { return 30 * time.Second, 1 }

func (h *hook) send(ctx context.Context, m message) error {
	out, err := guard.Program{Argv: h.argv, Env: environment(m)}.Run(ctx)
	if err != nil && out != "" {
		return fmt.Errorf("%w: %s", err, guard.Text(out))
	}
	return err
}

// environment is documented with the package.
func environment(m message) []string {
	return []string{
		"LVX_KIND=" + string(m.Kind),
		"LVX_NAME=" + m.Name,
		"LVX_SERVICE=" + m.service(),
		"LVX_REAL=" + m.real(),
		"LVX_OLD=" + m.Old,
		"LVX_NEW=" + m.New,
		"LVX_REASON=" + m.Reason,
		"LVX_TIME=" + m.Time.Format(time.RFC3339),
		"LVX_HOST=" + m.host,
		"LVX_CHANGES=" + strconv.Itoa(m.changes),
		"LVX_TEXT=" + m.text(),
	}
}
