"""A page to try the networks in: `featherweight serve`.

    commands/serve → server   listens, tells the address, ends cleanly
                       ├ guard   every request passes it: who may ask, for what, how much
                       └ page    gradio's part: the fields and what happens when one changes
                           ├ look      one picture → classes and Grad-CAM, as arrays
                           ├ markup    those as HTML, and the style sheet
                           └ examples  pictures to begin with

gradio is an extra, imported only by `server` and `page`, and only once its telemetry is off.
"""
