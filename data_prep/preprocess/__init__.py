"""Steps between a recording as it was read and trials as they are stored: each a file, its config beside it, what it found as plain values.

Order, fixed, whatever the order in a config::

    raw signal      -> bad channels      named, marked in the file, or found (``bad_channels``)
    continuous      -> notch, band-pass  Butterworth, or a zero-phase FIR in chunks (``fir``)
                    -> eyes              ICA or regression, without the bad channels (``eyes``, ``ica``, ``regression``)
                    -> interpolation     of the bad channels, from the others (``splines``)
                    -> reference         average, channels, or REST (``reference``)
                    -> common montage    target electrodes from each device's own (``montage``)
    trials          -> window, resampling, baseline, amplitude                     (``studies.cutting``)
                    -> autoreject                                                  (``autorejection``)
                    -> robust scaling, clamping                                    (``scaling``)
    training rows   -> MVNN, z-scores or Euclidean alignment, on the device        (``splits.transforms``)

Bad channels come first, since a filter hides what tells them; ICA and regression before the reference, which takes a rank; scaling
last, since rejection is in microvolts. Seeds are fixed and linear algebra takes one thread (``linear.one_thread``): the same
recording gives the same bytes.
"""
